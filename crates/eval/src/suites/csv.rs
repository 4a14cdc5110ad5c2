//! Rows of CSV.

use csv_core::{ReadRecordResult, Reader};

/// The rows of a table and the lines at which they begin. Quoted cells may hold commas and line breaks; empty lines are skipped.
pub(super) fn rows(text: &str) -> Vec<(usize, Vec<String>)> {
    let mut reader = Reader::new();
    let mut rest = text;
    let mut line = 1;
    // A row cannot be longer than the text that is left.
    let (mut cells, mut ends) = (vec![0; text.len()], vec![0; text.len() + 1]);
    let mut rows = Vec::new();
    loop {
        let row = rest.trim_start_matches(['\r', '\n']);
        line += newlines(&rest[..rest.len() - row.len()]);
        let Some((read, count)) = read_row(&mut reader, row.as_bytes(), &mut cells, &mut ends) else { return rows };
        rows.push((line, split(&cells, &ends[..count])));
        line += newlines(&row[..read]);
        rest = &row[read..];
    }
}

fn newlines(text: &str) -> usize {
    text.matches('\n').count()
}

/// Reads a row; returns the bytes it takes and the number of its cells, or `None` at the end.
fn read_row(reader: &mut Reader, text: &[u8], cells: &mut [u8], ends: &mut [usize]) -> Option<(usize, usize)> {
    let (mut read, mut written, mut count) = (0, 0, 0);
    loop {
        let (result, taken, more, further) =
            reader.read_record(&text[read..], &mut cells[written..], &mut ends[count..]);
        (read, written, count) = (read + taken, written + more, count + further);
        match result {
            // The text may end without a line break; being asked again, the reader ends the row.
            ReadRecordResult::InputEmpty => {}
            ReadRecordResult::Record => return Some((read, count)),
            ReadRecordResult::End | ReadRecordResult::OutputFull | ReadRecordResult::OutputEndsFull => return None,
        }
    }
}

fn split(cells: &[u8], ends: &[usize]) -> Vec<String> {
    let begins = std::iter::once(0).chain(ends.iter().copied());
    begins.zip(ends).map(|(begin, end)| String::from_utf8_lossy(&cells[begin..*end]).into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_hold_commas_and_lines() {
        let found = rows("\na,b\n\"1, \"\"x\"\"\",\"two\nlines\"\r\n\n,é");
        let expected = [(2, ["a", "b"]), (3, ["1, \"x\"", "two\nlines"]), (6, ["", "é"])];
        assert_eq!(found, expected.map(|(line, cells)| (line, cells.map(String::from).to_vec())));
        assert!(rows("").is_empty());
    }
}
