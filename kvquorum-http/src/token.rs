//! The secret that clients and replicas share.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper::header::HeaderValue;
use subtle::{Choice, ConstantTimeEq};

use crate::reload::Reloaded;

/// Nothing slows down who guesses.
const SHORTEST: usize = 16;

const LONGEST: usize = 256;

const SCHEME: &str = "Bearer ";

/// Secrets that let their holders in: a server takes any of them, and a client
/// sends the first, as `Authorization: Bearer` (RFC 6750).
///
/// They are from 16 to 256 characters long, of letters, digits and `-._~+/`, and
/// may end with `=`. `openssl rand -hex 32` makes a good one. Who can read the
/// network can read them: give them to strangers' networks over TLS alone.
///
/// # Changing them
///
/// [From a file](Self::from_file) they are read again when it changes. One file
/// can be that of all nodes and their clients. So a secret is changed without an
/// interruption: put the new one below the old one everywhere; then, everywhere,
/// put it first; then take the old one out.
///
/// Cloning it counts a reference. Its `Debug` output does not have the secrets.
#[derive(Clone)]
pub struct Tokens(Arc<Reloaded<Arc<[Token]>, TokenError>>);

/// Why secrets are not usable. It does not repeat them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The file cannot be read.
    #[error("{} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        error: io::Error,
    },
    /// The file changed whenever it was read.
    #[error("the file changes while it is read")]
    Changing,
    /// There is no token at all.
    #[error("there is no token")]
    None,
    /// A token has too few characters to be a secret.
    #[error("token {nth} has fewer than {SHORTEST} characters")]
    TooShort {
        /// Which one, counted from 1.
        nth: usize,
    },
    /// A token has too many characters.
    #[error("token {nth} has more than {LONGEST} characters")]
    TooLong {
        /// Which one, counted from 1.
        nth: usize,
    },
    /// A token has other characters than it may.
    #[error("token {nth} has other characters than letters, digits, -._~+/ and = at its end")]
    Characters {
        /// Which one, counted from 1.
        nth: usize,
    },
}

/// One secret.
struct Token {
    padded: Padded,
    /// What a client's header says.
    header: HeaderValue,
}

/// A text in a place that does not show its length.
struct Padded {
    bytes: [u8; LONGEST],
    len: u64,
}

impl Tokens {
    /// These secrets, the one to send first.
    ///
    /// # Errors
    ///
    /// Where there is none, or one is not as it must be.
    pub fn new(tokens: impl IntoIterator<Item = impl AsRef<str>>) -> Result<Self, TokenError> {
        Ok(Self(Arc::new(Reloaded::fixed(parse(tokens)?))))
    }

    /// The secrets in a file, one a line; blank lines, and those that begin with
    /// `#`, are none. A change of the file is noticed within a second by its
    /// time of modification or its length. Change it by renaming a new file over
    /// it: of one that is rewritten in place, the half that is there may be read.
    ///
    /// Where the file is not usable after a change, what it held before stays
    /// valid. [`refresh`](Self::refresh) tells.
    ///
    /// Once a second at most, one use of the secrets looks at the file, and blocks
    /// its thread for as long as the file system takes. Meanwhile others go on with
    /// what the file held before: one that hangs blocks one thread.
    ///
    /// # Errors
    ///
    /// Where the file cannot be read or holds no secret, or one is not as it
    /// must be.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, TokenError> {
        let path = path.as_ref().to_owned();
        let paths = vec![path.clone()];
        let load = move || match std::fs::read_to_string(&path) {
            Ok(text) => parse(
                text.lines()
                    .map(str::trim)
                    .filter(|line| !line.is_empty() && !line.starts_with('#')),
            ),
            Err(error) => Err(TokenError::Read {
                path: path.clone(),
                error,
            }),
        };
        let changing = || TokenError::Changing;
        Ok(Self(Arc::new(Reloaded::new(paths, load, changing)?)))
    }

    /// Reads the file now, where it has changed. It blocks until the file system
    /// answers, and until another look at the file is over.
    ///
    /// # Errors
    ///
    /// As [`from_file`](Self::from_file). What was valid stays so.
    pub fn refresh(&self) -> Result<(), TokenError> {
        self.0.refresh()
    }

    /// Whether a header has one of them. This takes as long whatever they are,
    /// and whether or not one of them is right.
    pub(crate) fn admit(&self, header: &HeaderValue) -> bool {
        let header = header.as_bytes();
        let (scheme, presented) = header.split_at(SCHEME.len().min(header.len()));
        let presented = Padded::new(presented.trim_ascii());
        let mut found = Choice::from(0);
        for token in self.0.get().iter() {
            found |= token.padded.ct_eq(&presented);
        }
        scheme.eq_ignore_ascii_case(SCHEME.as_bytes()) && found.into()
    }

    /// What a client's header says.
    pub(crate) fn header(&self) -> Option<HeaderValue> {
        Some(self.0.get().first()?.header.clone())
    }
}

fn parse(tokens: impl IntoIterator<Item = impl AsRef<str>>) -> Result<Arc<[Token]>, TokenError> {
    let numbered = (1..).zip(tokens);
    let tokens = numbered.map(|(nth, token)| Token::parse(nth, token.as_ref()));
    let tokens: Arc<[Token]> = tokens.collect::<Result<_, _>>()?;
    if tokens.is_empty() {
        return Err(TokenError::None);
    }
    Ok(tokens)
}

impl Token {
    fn parse(nth: usize, token: &str) -> Result<Self, TokenError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
        if !token.trim_end_matches('=').bytes().all(allowed) {
            return Err(TokenError::Characters { nth });
        }
        if token.len() < SHORTEST {
            return Err(TokenError::TooShort { nth });
        }
        if token.len() > LONGEST {
            return Err(TokenError::TooLong { nth });
        }
        let mut header = HeaderValue::from_str(&[SCHEME, token].concat())
            .map_err(|_| TokenError::Characters { nth })?;
        header.set_sensitive(true);
        Ok(Self {
            padded: Padded::new(token.as_bytes()),
            header,
        })
    }
}

impl Padded {
    /// One that is too long is as one that is empty, which no token is.
    fn new(text: &[u8]) -> Self {
        let mut bytes = [0; LONGEST];
        let mut len = 0;
        if let Some(place) = bytes.get_mut(..text.len()) {
            place.copy_from_slice(text);
            len = text.len() as u64;
        }
        Self { bytes, len }
    }
}

impl ConstantTimeEq for Padded {
    fn ct_eq(&self, other: &Self) -> Choice {
        self.bytes.ct_eq(&other.bytes) & self.len.ct_eq(&other.len)
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens")
            .field("count", &self.0.get().len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "an-old-secret-of-all-of-us";
    const NEW: &str = "a.new/secret+of~all-of-us==";

    fn admits(tokens: &Tokens, header: &str) -> bool {
        tokens.admit(&HeaderValue::from_str(header).unwrap())
    }

    #[test]
    fn any_of_the_tokens_is_admitted_and_nothing_else() {
        let tokens = Tokens::new(["an-old-secret-of-all.of-us", "0123456789abcdef"]).unwrap();
        for header in [
            "Bearer an-old-secret-of-all.of-us",
            "bearer an-old-secret-of-all.of-us",
            "BEARER  0123456789abcdef",
        ] {
            assert!(admits(&tokens, header), "{header}");
        }
        let long = format!("Bearer {}", "0".repeat(10_000));
        for header in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdeF",
            "Bearer 0123456789abcdef0",
            "Bearer 0123456789abcdef, 0123456789abcdef",
            "Basic 0123456789abcdef",
            "0123456789abcdef",
            "Bearer:0123456789abcdef",
            &long,
        ] {
            assert!(!admits(&tokens, header), "{header}");
        }
    }

    /// The secret is in neither the `Debug` output nor an error.
    #[test]
    fn nothing_shows_a_secret() {
        let tokens = Tokens::new([OLD]).unwrap();
        let shown = format!("{tokens:?} {:?}", tokens.header());
        assert!(!shown.contains("secret"), "{shown}");
        for wrong in ["secret", "secret\u{e9}secretsecret", "secret secret secret"] {
            let error = Tokens::new([wrong]).unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains("secret"), "{shown}");
        }
    }

    #[test]
    fn what_is_no_secret_is_refused() {
        let none: [&str; 0] = [];
        assert!(matches!(Tokens::new(none), Err(TokenError::None)));
        let longest = "x".repeat(LONGEST);
        assert!(Tokens::new([&longest]).is_ok());
        let refused = |second: &str| Tokens::new([OLD, second]).err();
        assert!(matches!(
            refused("0123456789abcde"),
            Some(TokenError::TooShort { nth: 2 })
        ));
        assert!(matches!(
            refused(&format!("{longest}x")),
            Some(TokenError::TooLong { nth: 2 })
        ));
        for wrong in ["0123456789abcde\n", "0123456=89abcdef", "0123456789 abcdef"] {
            let Some(TokenError::Characters { nth: 2 }) = refused(wrong) else {
                panic!("{wrong:?} is a token");
            };
        }
    }

    /// A secret is changed in a file that is there all the time; one that was
    /// emptied by mistake locks nobody out.
    #[test]
    fn a_file_is_read_again_when_it_changes_and_only_where_it_is_usable() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens");
        let missing = Tokens::from_file(&path).unwrap_err();
        assert!(matches!(missing, TokenError::Read { .. }), "{missing}");

        let (old, new) = (OLD, NEW);
        std::fs::write(&path, format!("# ours\n\n  {old} \r\n")).unwrap();
        let tokens = Tokens::from_file(&path).unwrap();
        assert!(admits(&tokens, &format!("Bearer {old}")));
        assert!(!admits(&tokens, &format!("Bearer {new}")));

        std::fs::write(&path, format!("{new}\n{old}\n")).unwrap();
        tokens.refresh().unwrap();
        for token in [&old, &new] {
            assert!(admits(&tokens, &format!("Bearer {token}")));
        }
        assert_eq!(tokens.header().unwrap(), format!("Bearer {new}"));

        for unusable in ["", "# nothing\n", "short\n"] {
            std::fs::write(&path, unusable).unwrap();
            assert!(tokens.refresh().is_err());
            // And again, although the file is no other than it was.
            assert!(tokens.refresh().is_err());
            assert!(admits(&tokens, &format!("Bearer {old}")));
        }
        std::fs::write(&path, format!("{new}\n")).unwrap();
        tokens.refresh().unwrap();
        assert!(!admits(&tokens, &format!("Bearer {old}")));
    }
}
