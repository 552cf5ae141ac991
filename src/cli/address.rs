//! What people write for a node, an address, a name, and a number of bytes.

/// `4=10.0.0.4:7411`: a node's number and its address.
pub(super) fn parse_peer(text: &str) -> Result<(u64, String), String> {
    let wanted = "write it as NUMBER=HOST:PORT, for example 1=127.0.0.1:7411";
    let (id, address) = text.split_once('=').ok_or(wanted)?;
    let id = id.trim().parse().ok().filter(|id| *id > 0).ok_or(wanted)?;
    let address = parse_address(address.trim()).map_err(|_| wanted)?;
    Ok((id, address))
}

/// `10.0.0.4:7411`.
pub(super) fn parse_address(text: &str) -> Result<String, String> {
    let parts = text.rsplit_once(':');
    match parts.and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?))) {
        // At port 0 the system would choose one, and nobody else would know it.
        Some((host, 1..)) if !host.is_empty() => Ok(text.to_owned()),
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

/// As in Redis: a number, or one with `kb`, `mb` or `gb` (1024 each), `k`, `m` or `g` (1000 each).
pub(super) fn parse_bytes(text: &str) -> Result<u64, String> {
    let text = text.to_ascii_lowercase();
    let units = [
        ("kb", 1 << 10),
        ("mb", 1 << 20),
        ("gb", 1 << 30),
        ("k", 1000),
        ("m", 1_000_000),
        ("g", 1_000_000_000),
        ("", 1),
    ];
    let read = units.into_iter().find_map(|(unit, bytes)| {
        let number = text.strip_suffix(unit)?.parse::<u64>().ok()?;
        number.checked_mul(bytes)
    });
    read.ok_or_else(|| "write it as a number of bytes, or as 100mb or 2gb".to_owned())
}

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
            "0=h:1",
            "4=h:70000",
            "4=h:0",
        ] {
            assert!(parse_peer(wrong).is_err(), "{wrong}");
        }
        assert!(parse_address("[::1]:7401").is_ok());
    }

    #[test]
    fn bytes_may_have_a_unit() {
        for (text, bytes) in [("0", 0), ("10", 10), ("2kb", 2048), ("3M", 3_000_000)] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for wrong in ["", "x", "-1", "1tb", "99999999999gb"] {
            assert!(parse_bytes(wrong).is_err(), "{wrong}");
        }
    }
}
