//! Fragments in request targets.

/// Says of a request that its target had a fragment.
#[derive(Clone, Copy)]
pub(super) struct HadFragment;

/// Looks for a fragment in the first line of a request. hyper cuts it off, so
/// that the request would seem to be for another key than the one that was
/// meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum RequestLine {
    #[default]
    Method,
    Target,
    /// There is no more to look at.
    Over,
}

impl RequestLine {
    /// Whether a fragment begins in these bytes, the next of the line.
    pub(super) fn has_fragment(&mut self, bytes: &[u8]) -> bool {
        for byte in bytes {
            *self = match (*self, byte) {
                // Empty lines may come first.
                (Self::Method, b'A'..=b'Z' | b'\r' | b'\n') => Self::Method,
                (Self::Method, b' ') => Self::Target,
                (Self::Target, b'#') => {
                    *self = Self::Over;
                    return true;
                }
                (Self::Target, b'!'..=u8::MAX) => Self::Target,
                _ => return self.end(),
            };
        }
        false
    }

    fn end(&mut self) -> bool {
        *self = Self::Over;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragments_are_found_wherever_the_line_is_cut() {
        for (line, expected) in [
            ("GET /read/a#b HTTP/1.1\r\n", true),
            ("\r\nGET /read/a?b#c HTTP/1.1\r\n", true),
            ("GET # HTTP/1.1\r\n", true),
            ("GET /read/a HTTP/1.1\r\nreferer: /#a\r\n", false),
            ("GET /read/\u{e9} HTTP/1.1\r\n\r\n#", false),
            ("{\"key\": \"a#b\"}", false),
            (" a# b", true),
        ] {
            for at in 0..=line.len() {
                let (first, second) = line.as_bytes().split_at(at);
                let mut request_line = RequestLine::default();
                let found = request_line.has_fragment(first) || request_line.has_fragment(second);
                assert_eq!(found, expected, "{line:?} at {at}");
            }
        }
    }
}
