//! The names of the files in a store's directory.

use std::path::{Path, PathBuf};

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Role {
    /// A snapshot.
    Snapshot,
    /// Chunks that are needed still.
    Chunks,
    /// A snapshot that arrives.
    Install,
    /// Being written.
    Temporary,
}

/// Numbers stay below this, so that counting on never overflows.
pub(crate) const NUMBERS_MAX: u64 = 1 << 62;

impl Role {
    const ALL: [Role; 4] = [Role::Snapshot, Role::Chunks, Role::Install, Role::Temporary];

    fn suffix(self) -> &'static str {
        match self {
            Role::Snapshot => ".snap",
            Role::Chunks => ".chunks",
            Role::Install => ".install",
            Role::Temporary => ".tmp",
        }
    }

    pub(crate) fn path(self, dir: &Path, number: u64) -> PathBuf {
        dir.join(self.name(number))
    }

    fn name(self, number: u64) -> String {
        format!("{number:016x}{}", self.suffix())
    }

    /// What a name means; `None` for a stranger's.
    pub(crate) fn parse(name: &str) -> Option<(u64, Role)> {
        let role = Role::ALL
            .into_iter()
            .find(|role| name.ends_with(role.suffix()))?;
        let hex = name.strip_suffix(role.suffix())?;
        let number = u64::from_str_radix(hex, 16).ok()?;
        // Only the one spelling: two files for one number must not exist.
        (role.name(number) == name && number < NUMBERS_MAX).then_some((number, role))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_spelling() {
        let parse = Role::parse;
        assert_eq!(parse("00000000000000ff.snap"), Some((255, Role::Snapshot)));
        assert_eq!(parse("0000000000000001.install"), Some((1, Role::Install)));
        for stranger in [
            "LOCK",
            "ff.snap",
            "00000000000000FF.snap",
            "ffffffffffffffff.snap",
            ".tmp",
            "x",
        ] {
            assert_eq!(parse(stranger), None, "{stranger}");
        }
    }
}
