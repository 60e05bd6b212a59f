//! A cause is the source of its error, and not in its text.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use kvquorum_core::Refusal;

use crate::server::ConnectionRefused;
use crate::token::TokenError;
use crate::wire::DecodeError;
use crate::{AddressError, HttpError};

fn cause() -> io::Error {
    io::Error::other("the cause")
}

fn unanswered(last: Option<Arc<HttpError>>) -> HttpError {
    HttpError::NotAnswering {
        unanswered: 2,
        pause: Duration::ZERO,
        last,
    }
}

/// Of every variant one, but for a broken connection, of which only hyper can make
/// the cause.
fn http_errors() -> Vec<HttpError> {
    let connect = || Arc::new(HttpError::Connect(Arc::new(cause())));
    vec![
        HttpError::Connect(Arc::new(cause())),
        HttpError::ConnectTimedOut(Duration::ZERO),
        HttpError::Handshake(Arc::new(cause())),
        HttpError::NotTls,
        unanswered(Some(connect())),
        unanswered(None),
        HttpError::Encode(Arc::new(cause())),
        HttpError::ResponseTooLarge { max: 1 },
        HttpError::Decode(Arc::new(DecodeError::Unframed)),
        HttpError::Unanswered,
        HttpError::NotUnderstood {
            message: "what".to_owned(),
        },
        HttpError::Status {
            status: StatusCode::BAD_GATEWAY,
            message: "what".to_owned(),
        },
        HttpError::Refused(Refusal::EmptyKey),
        HttpError::TriedTwice {
            first: Arc::new(HttpError::Unanswered),
            second: connect(),
        },
    ]
}

/// By its variants, so that a new one is not forgotten.
fn has_cause(error: &HttpError) -> bool {
    match error {
        HttpError::NotAnswering { last, .. } => last.is_some(),
        HttpError::Connect(_)
        | HttpError::Handshake(_)
        | HttpError::Encode(_)
        | HttpError::Connection(_)
        | HttpError::Decode(_)
        | HttpError::Refused(_)
        | HttpError::TriedTwice { .. } => true,
        HttpError::ConnectTimedOut(_)
        | HttpError::NotTls
        | HttpError::ResponseTooLarge { .. }
        | HttpError::Unanswered
        | HttpError::NotUnderstood { .. }
        | HttpError::Status { .. } => false,
    }
}

fn others() -> Vec<(Box<dyn Error>, bool)> {
    let unreadable = TokenError::Read {
        path: "a".into(),
        error: cause(),
    };
    vec![
        (Box::new(ConnectionRefused::Handshake(cause())), true),
        (Box::new(ConnectionRefused::NotTls), false),
        (Box::new(ConnectionRefused::UnexpectedTls), false),
        (Box::new(DecodeError::Malformed(Box::new(cause()))), true),
        (Box::new(DecodeError::Trailing(1)), false),
        (Box::new(unreadable), true),
        (Box::new(TokenError::None), false),
        (Box::new(AddressError::NoPort("a".to_owned())), false),
        #[cfg(feature = "tls")]
        (
            Box::new(crate::TlsError::Read {
                path: "a".into(),
                error: cause(),
            }),
            true,
        ),
    ]
}

/// Bugs: a report of the whole chain says a cause twice, since the text of an error
/// has it too; or never, since it is no source.
#[test]
fn a_cause_is_the_source_and_not_in_the_text() {
    let check = |error: &dyn Error, has_cause: bool| {
        let text = error.to_string();
        let source = error.source().map(ToString::to_string);
        assert_eq!(source.is_some(), has_cause, "{text}");
        assert!(
            source.is_none_or(|source| !text.contains(&source)),
            "{text}"
        );
        assert!(!text.contains("the cause"), "{text}");
    };
    for error in http_errors() {
        check(&error, has_cause(&error));
    }
    for (error, has_cause) in others() {
        check(&*error, has_cause);
    }
}
