//! What the commands share that look at a node's files: which directory is meant, and how they say what they found.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};

use duramen::disk::{Disk, OsDisk};
use indicatif::{ProgressBar, ProgressStyle};

use super::Outcome;

/// The directory that is meant by `dir`: itself, if its names say so, or the one called `below` that a node has in its own.
pub(super) fn find_dir(
    dir: &Path,
    below: &str,
    is_it: impl Fn(&[String]) -> bool,
) -> Outcome<PathBuf> {
    let disk = OsDisk::new();
    let names = disk.list(dir);
    let names = names.map_err(|error| format!("cannot list {}: {error}", dir.display()))?;
    if is_it(&names) {
        return Ok(dir.to_owned());
    }
    let inner = dir.join(below);
    match disk.list(&inner) {
        Ok(names) if is_it(&names) => return Ok(inner),
        Err(error) if names.iter().any(|name| name == below) => {
            return Err(format!("cannot list {}: {error}", inner.display()).into());
        }
        _ => {}
    }
    let dir = dir.display();
    Err(format!("{dir} holds no {below}: name a node's directory, or that of its {below}").into())
}

/// Standard output, in large pieces. Once nobody reads it, each write is a `BrokenPipe`, which ends the program quietly.
pub(super) fn stdout() -> BufWriter<io::StdoutLock<'static>> {
    BufWriter::with_capacity(64 << 10, io::stdout().lock())
}

/// Prints what was found, as one line.
pub(super) fn print_json(found: &serde_json::Value) -> Outcome {
    let mut out = stdout();
    writeln!(out, "{found}")?;
    Ok(out.flush()?)
}

/// On standard error, and only if that is a terminal.
pub(super) fn progress(template: &str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(0);
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// The name of a file in the directory that is looked at.
pub(super) fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}

/// `1 entry`, `2 entries`.
pub(super) fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}
