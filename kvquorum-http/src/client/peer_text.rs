//! What a peer says, made fit for a terminal and a log.

use serde::Deserialize;

/// The body of an error, where it is a replica's.
#[derive(Deserialize)]
struct ErrorBody {
    error: String,
}

/// What the body of an error says, whoever wrote it.
pub(crate) fn error_message(body: &[u8]) -> String {
    match serde_json::from_slice::<ErrorBody>(body) {
        Ok(body) => fit_to_print(&body.error),
        Err(_) => fit_to_print(String::from_utf8_lossy(body).trim()),
    }
}

/// At most a few hundred characters of a text, and those escaped that do not
/// print: they could move a terminal's cursor, forge a line of a log, or turn
/// the order of what is read.
pub(crate) fn fit_to_print(text: &str) -> String {
    const LONGEST: usize = 300;
    let mut fit = String::new();
    for char in text.chars().take(LONGEST) {
        match char {
            '"' | '\'' | '\\' => fit.push(char),
            char => fit.extend(char.escape_debug()),
        }
    }
    fit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_prints_stays_and_the_rest_is_escaped() {
        for (text, fit) in [
            ("no \"disk\"\\, é 漢", "no \"disk\"\\, é 漢"),
            ("\x1b[2J\x07\0", "\\u{1b}[2J\\u{7}\\0"),
            ("a\r\nERROR b\t", "a\\r\\nERROR b\\t"),
            (
                "\u{9b}2J\u{202e}cba\u{200b}\u{2028}",
                "\\u{9b}2J\\u{202e}cba\\u{200b}\\u{2028}",
            ),
        ] {
            assert_eq!(fit_to_print(text), fit);
        }
    }

    #[test]
    fn an_error_says_what_its_body_says() {
        for (body, message) in [
            (&b"{\"error\":\"\\u001b[0m\"}"[..], "\\u{1b}[0m"),
            (b" <html>\x1b</html>\n", "<html>\\u{1b}</html>"),
            (b"", ""),
        ] {
            assert_eq!(error_message(body), message);
        }
        for body in ["ü".repeat(10_000).into_bytes(), vec![0xff; 10_000]] {
            assert_eq!(error_message(&body).chars().count(), 300);
        }
    }
}
