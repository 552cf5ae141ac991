//! What people write for a node, an address and a name.

/// `4=10.0.0.4:7411`: a node's number and its address.
pub(super) fn parse_peer(text: &str) -> Result<(u64, String), String> {
    let wanted = "write it as NUMBER=HOST:PORT, for example 1=127.0.0.1:7411";
    let (id, address) = text.split_once('=').ok_or(wanted)?;
    let id = id.trim().parse().map_err(|_| wanted)?;
    let address = parse_address(address.trim()).map_err(|_| wanted)?;
    Ok((id, address))
}

/// `10.0.0.4:7411`.
pub(super) fn parse_address(text: &str) -> Result<String, String> {
    let parts = text.rsplit_once(':');
    match parts.and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?))) {
        Some((host, _)) if !host.is_empty() => Ok(text.to_owned()),
        _ => Err("write it as HOST:PORT, for example 127.0.0.1:7401".to_owned()),
    }
}

/// A cluster's name.
pub(super) fn parse_name(text: &str) -> Result<String, String> {
    match text.len() {
        1..=NAME_BYTES_MAX => Ok(text.to_owned()),
        _ => Err(format!("a name has 1 to {NAME_BYTES_MAX} bytes")),
    }
}

const NAME_BYTES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_host_and_a_port() {
        assert_eq!(parse_peer("4=h:1"), Ok((4, "h:1".to_owned())));
        for wrong in [
            "4",
            "4=",
            "=h:1",
            "4=h",
            "4=:1",
            "4=h:x",
            "x=h:1",
            "4=h:70000",
        ] {
            assert!(parse_peer(wrong).is_err(), "{wrong}");
        }
        assert!(parse_address("[::1]:7401").is_ok());
    }
}
