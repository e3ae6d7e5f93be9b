//! What is said of JSON that makes no sense.

/// What serde says, without the string that it cites: what has the wrong shape may hold a password.
#[must_use]
pub fn describe(error: &serde_json::Error) -> String {
    let words = error.to_string();
    match (words.find(" \""), words.rfind("\", expected")) {
        (Some(start), Some(end)) if start < end => format!("{}{}", &words[..start], &words[end + 1..]),
        _ => words,
    }
}
