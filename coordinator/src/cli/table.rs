//! Prints rows in columns, and JSON. Knows nothing of what it prints.

use std::io::{ErrorKind, Write};

/// Prints to standard output. A reader that has gone away (`| head`) is no error, and changes nothing of what a verb ends
/// with; a full disk is one.
pub fn print(text: &str) {
    match write(text) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        Err(error) => {
            eprintln!("error: cannot write to standard output: {error}");
            std::process::exit(1);
        }
    }
}

/// Writes to standard output, all of it.
///
/// # Errors
/// Also if the reader has gone away: for what is not shown a second time.
pub fn write(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush())
}

/// Prints a JSON value, indented, and a line end.
pub fn print_json(value: &serde_json::Value) {
    print(&format!("{value:#}\n"));
}

/// Rows in columns, two spaces apart, without trailing spaces. The first row is the head.
pub fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..count).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell}{}", " ".repeat(width - cell.chars().count())))
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// At most `limit` characters on one line, with an ellipsis where something is missing.
pub fn shortened(text: &str, limit: usize) -> String {
    // A prompt comes from anyone: a control character in it must not steer the operator's terminal.
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    if text.chars().count() <= limit {
        return text.chars().map(clean).collect();
    }
    text.chars().take(limit.saturating_sub(1)).map(clean).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [vec!["ID".into(), "STATE".into()], vec!["video_1".into(), "ok".into()]];
        assert_eq!(columns(&rows), "ID       STATE\nvideo_1  ok\n");
    }

    #[test]
    fn a_prompt_cannot_steer_the_terminal() {
        assert_eq!(shortened("a\u{1b}[2Jb", 10), "a [2Jb");
        assert_eq!(shortened("abcdef", 4), "abc…");
    }
}
