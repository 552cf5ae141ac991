//! Planted bugs, to see that the tests see them: one build with `--cfg canary`, the bug chosen by `DURAMEN_CANARY`. Any other
//! build has none. `tests/canaries.rs` says what must fail for which.

/// Whether the bug of this name is planted.
#[cfg(canary)]
pub(crate) fn planted(name: &str) -> bool {
    use std::sync::OnceLock;
    static PLANTED: OnceLock<Option<String>> = OnceLock::new();
    let planted = PLANTED.get_or_init(|| std::env::var("DURAMEN_CANARY").ok());
    planted.as_deref() == Some(name)
}

/// Whether the bug of this name is planted: never, in this build.
#[cfg(not(canary))]
pub(crate) const fn planted(_: &str) -> bool {
    false
}
