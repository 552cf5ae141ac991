//! Redis's patterns for keys: `*`, `?`, `[abc]`, `[a-c]`, `[^a]`, and `\` before a byte that stands for itself.

/// Whether a pattern matches all of `text`. Takes at most their lengths' product in time.
pub(super) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut pattern, mut text) = (pattern, text);
    // What to go on with when something does not match: after the last star, with one more byte of text left to it.
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        if let [b'*', rest @ ..] = pattern {
            retry = Some((rest, text));
            pattern = rest;
            continue;
        }
        if pattern.is_empty() && text.is_empty() {
            return true;
        }
        match text
            .split_first()
            .and_then(|(byte, rest)| Some((one(pattern, *byte)?, rest)))
        {
            Some((rest_of_pattern, rest)) => (pattern, text) = (rest_of_pattern, rest),
            None => match retry {
                Some((after_star, [_, rest @ ..])) => {
                    retry = Some((after_star, rest));
                    (pattern, text) = (after_star, rest);
                }
                _ => return false,
            },
        }
    }
}

/// Matches one byte with the front of a pattern, and gives what is left of the pattern. `None` if it does not match.
fn one(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    match pattern {
        [] => None,
        [b'?', rest @ ..] => Some(rest),
        [b'[', set @ ..] => in_set(set, byte),
        [b'\\', itself, rest @ ..] | [itself, rest @ ..] => (*itself == byte).then_some(rest),
    }
}

/// The same for a set, after its bracket. One without an end ends with the pattern.
fn in_set(set: &[u8], byte: u8) -> Option<&[u8]> {
    let (is_negated, mut set) = match set {
        [b'^', rest @ ..] => (true, rest),
        _ => (false, set),
    };
    let mut is_in = false;
    loop {
        set = match set {
            [] | [b']', ..] => break,
            [b'\\', itself, rest @ ..] => {
                is_in |= *itself == byte;
                rest
            }
            [first, b'-', last, rest @ ..] => {
                is_in |= (*first.min(last)..=*first.max(last)).contains(&byte);
                rest
            }
            [itself, rest @ ..] => {
                is_in |= *itself == byte;
                rest
            }
        };
    }
    (is_in != is_negated).then_some(set.get(1..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_redis() {
        for (pattern, text, is_match) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "anything", true),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h*llo", "heeeello", true),
            ("h*l*o*", "hello!", true),
            ("*a", "aab", false),
            ("*ab", "aaab", true),
            ("h[ae]llo", "hallo", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-c]llo", "hbllo", true),
            ("h[c-a]llo", "hbllo", true),
            ("h[a-c]llo", "hdllo", false),
            ("[\\]]", "]", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("[ab", "a", true),
            ("[", "a", false),
            ("a\\", "a\\", true),
            ("user:*:name", "user:17:name", true),
        ] {
            let found = matches(pattern.as_bytes(), text.as_bytes());
            assert_eq!(found, is_match, "{pattern} {text}");
        }
    }

    #[test]
    fn a_nasty_pattern_takes_no_time() {
        let pattern = "a*".repeat(1000) + "b";
        assert!(!matches(pattern.as_bytes(), "a".repeat(10_000).as_bytes()));
    }
}
