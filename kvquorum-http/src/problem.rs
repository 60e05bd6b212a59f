//! What the body of an error says.

use serde::{Deserialize, Serialize};

/// The body of an error.
#[derive(Serialize, Deserialize)]
pub(crate) struct ErrorBody {
    pub(crate) error: String,
}

/// What the body of an error says, for answers that may come from anyone.
pub(crate) fn error_message(body: &[u8]) -> String {
    let message = serde_json::from_slice::<ErrorBody>(body).map_or_else(
        |_| String::from_utf8_lossy(body).trim().to_owned(),
        |body| body.error,
    );
    cut_to_size(message)
}

/// At most a few hundred characters of what a peer says.
pub(crate) fn cut_to_size(mut message: String) -> String {
    const LONGEST: usize = 300;
    if let Some((end, _)) = message.char_indices().nth(LONGEST) {
        message.truncate(end);
    }
    message
}
