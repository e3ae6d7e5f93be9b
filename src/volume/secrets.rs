//! What must never be shown: option values whose keys look secret, and passwords in URLs.

/// What stands for a secret.
const MASK: &str = "***";
/// Nothing is hidden by cutting `1` out of every sentence.
const SHORTEST: usize = 3;

/// Whether an option of this name holds a secret.
fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase().replace('-', "_");
    let parts = ["password", "passwd", "passphrase", "secret", "token", "credential", "apikey"];
    let words = ["pass", "key", "pw"];
    parts.iter().any(|part| key.contains(part))
        || key.split('_').next_back().is_some_and(|last| words.contains(&last))
}

/// Mount options (`a,b=c`, one or more lines) with the values of secret ones masked.
#[must_use]
pub(super) fn mask_options(options: &str) -> String {
    options.split('\n').map(mask_line).collect::<Vec<_>>().join("\n")
}

fn mask_line(line: &str) -> String {
    let masked = line.split(',').map(|option| match option.split_once('=') {
        Some((key, value)) if !value.is_empty() && is_secret(key.trim()) => format!("{key}={MASK}"),
        _ => option.to_owned(),
    });
    masked.collect::<Vec<_>>().join(",")
}

/// A device with the password of a URL (`scheme://user:password@host`) masked.
#[must_use]
pub(super) fn mask_device(device: &str) -> String {
    match url_password(device) {
        Some((start, end)) => format!("{}{MASK}{}", &device[..start], &device[end..]),
        None => device.to_owned(),
    }
}

/// A command with the values of words like `--password=x` masked.
#[must_use]
pub(super) fn mask_command(command: &str) -> String {
    let mut out = Vec::new();
    let mut value_follows = false;
    for word in command.split(' ') {
        let secret = if value_follows && !word.starts_with('-') { Some(word) } else { value_of_flag(word) };
        match secret {
            Some(value) => out.push(format!("{}{MASK}", &word[..word.len() - value.len()])),
            None => out.push(mask_line(word)),
        }
        value_follows = expects_secret(word);
    }
    out.join(" ")
}

/// The secret in a word like `--password=x`.
fn value_of_flag(word: &str) -> Option<&str> {
    let (key, value) = word.split_once('=')?;
    (key.starts_with('-') && is_secret(key.trim_start_matches('-')) && !value.is_empty()).then_some(value)
}

/// Whether the word after this one is a secret, as after `--password`.
fn expects_secret(word: &str) -> bool {
    word.starts_with('-') && !word.contains('=') && is_secret(word.trim_start_matches('-'))
}

/// The secrets in a command, to be cut out of what is said of it.
#[must_use]
pub(super) fn command_secrets(command: &str) -> Vec<&str> {
    let words: Vec<&str> = command.split(' ').collect();
    let mut found: Vec<&str> = words.iter().filter_map(|word| value_of_flag(word)).collect();
    found.extend(words.windows(2).filter(|pair| expects_secret(pair[0])).map(|pair| pair[1]));
    found.extend(words.iter().flat_map(|word| secrets("", word)));
    // A quote is the shell's, not the secret's.
    let quotes = ['"', '\''];
    found.extend(found.clone().into_iter().map(|secret| secret.trim_matches(quotes)));
    found.retain(|secret| secret.len() >= SHORTEST && !secret.starts_with(['-', '{']));
    found
}

/// The secrets themselves, to be cut out of what a helper says.
#[must_use]
pub(super) fn secrets<'a>(device: &'a str, options: &'a str) -> Vec<&'a str> {
    let values = options.split(['\n', ',']).filter_map(|option| option.split_once('='));
    let mut secrets: Vec<&str> =
        values.filter(|(key, _)| is_secret(key.trim())).map(|(_, value)| value).collect();
    secrets.extend(url_password(device).map(|(start, end)| &device[start..end]));
    secrets.retain(|secret| secret.len() >= SHORTEST);
    secrets
}

/// `text` without the `secrets`.
#[must_use]
pub(super) fn cut_out(text: &str, secrets: &[&str]) -> String {
    secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret, MASK))
}

fn url_password(device: &str) -> Option<(usize, usize)> {
    let authority = device.find("://")? + 3;
    let end = device[authority..].find('/').map_or(device.len(), |at| authority + at);
    let at = authority + device[authority..end].rfind('@')?;
    let colon = authority + device[authority..at].find(':')?;
    Some((colon + 1, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_values_are_masked_and_others_kept() {
        assert_eq!(
            mask_options("port=2022,password=hunter2,IdentityFile=/k,aws_secret_key=x,token=,key=a=b"),
            "port=2022,password=***,IdentityFile=/k,aws_secret_key=***,token=,key=***"
        );
        assert_eq!(mask_options("password_stdin,a\nsecret=x"), "password_stdin,a\nsecret=***");
    }

    #[test]
    fn passwords_in_urls_are_masked() {
        assert_eq!(mask_device("davfs#https://me:pa:ss@host/x@y"), "davfs#https://me:***@host/x@y");
        assert_eq!(mask_device("sshfs#me@host:/x"), "sshfs#me@host:/x");
        assert_eq!(mask_device("http://host/a:b@c"), "http://host/a:b@c");
    }

    #[test]
    fn commands_are_masked_word_by_word() {
        assert_eq!(
            mask_command("rclone mount --sftp-pass=x --password=y --api-key z -o token=t,ro {target}"),
            "rclone mount --sftp-pass=*** --password=*** --api-key *** -o token=***,ro {target}"
        );
    }

    #[test]
    fn secrets_of_a_command_are_found() {
        let secrets = command_secrets(
            "p --password=one --token two -o pw=three,ro --api-key -x --secret '{x}' --pass '4 5'",
        );
        for secret in ["one", "two", "three"] {
            assert!(secrets.contains(&secret), "{secrets:?}");
        }
        assert!(!secrets.iter().any(|secret| secret.contains("-x")), "{secrets:?}");
    }

    #[test]
    fn secrets_are_cut_out_of_words() {
        let secrets = secrets("http://u:word@h", "password=hunter2,pw=1");
        assert_eq!(cut_out("hunter2 refused, so was word, 1", &secrets), "*** refused, so was ***, 1");
    }
}
