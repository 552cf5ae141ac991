//! Reading the words of a request, and the errors of Redis about them.

use bytes::Bytes;

use super::Plan;
use crate::kv::parse_integer;

pub(in crate::server) const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";
pub(super) const NOT_A_FLOAT: &str = "ERR value is not a valid float";
pub(in crate::server) const SYNTAX_ERROR: &str = "ERR syntax error";

/// Long arguments are not repeated in an error.
const SHOWN_BYTES_MAX: usize = 128;

/// Either what was read, or what the client is to be told.
pub(super) type Read<T> = Result<T, String>;

/// The outcome of reading is a plan either way.
pub(super) fn planned(plan: Read<Plan>) -> Plan {
    plan.unwrap_or_else(super::error)
}

pub(super) fn syntax_error<T>() -> Read<T> {
    Err(SYNTAX_ERROR.to_owned())
}

pub(super) fn integer(word: &[u8]) -> Read<i64> {
    parse_integer(word).ok_or_else(|| NOT_AN_INTEGER.to_owned())
}

pub(super) fn is(word: &[u8], name: &str) -> bool {
    word.eq_ignore_ascii_case(name.as_bytes())
}

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN_BYTES_MAX)]).into_owned()
}

pub(super) fn unknown_command(words: &[Bytes]) -> String {
    let mut arguments = String::new();
    for argument in &words[1..] {
        if arguments.len() >= SHOWN_BYTES_MAX {
            break;
        }
        arguments += &format!("'{}' ", shown(argument));
    }
    let name = shown(&words[0]);
    format!("ERR unknown command '{name}', with args beginning with: {arguments}")
}

pub(in crate::server) fn unknown_subcommand(command: &str, words: &[Bytes]) -> Plan {
    let sub = shown(&words[1]);
    super::error(format!(
        "ERR unknown subcommand or wrong number of arguments for '{sub}'. Try {command} HELP."
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_command_is_named_with_its_first_arguments() {
        let request = ["FOO", "a", "b"].map(Bytes::from).to_vec();
        let text = "ERR unknown command 'FOO', with args beginning with: 'a' 'b' ";
        assert_eq!(unknown_command(&request), text);
        let long = vec![Bytes::from("x".repeat(1000)); 1000];
        assert!(unknown_command(&long).len() < 500);
    }
}
