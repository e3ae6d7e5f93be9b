//! What must never be shown: option values whose keys look secret, and passwords in URLs.

/// What stands for a secret.
const MASK: &str = "***";

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
        let key = word.trim_start_matches('-');
        match word.split_once('=') {
            _ if value_follows && !word.starts_with('-') => out.push(MASK.to_owned()),
            Some((key, value))
                if key.starts_with('-') && is_secret(key.trim_start_matches('-')) && !value.is_empty() =>
            {
                out.push(format!("{key}={MASK}"));
            }
            _ => out.push(mask_line(word)),
        }
        value_follows = word.starts_with('-') && !word.contains('=') && is_secret(key);
    }
    out.join(" ")
}

/// The secrets themselves, to be cut out of what a helper says.
#[must_use]
pub(super) fn secrets<'a>(device: &'a str, options: &'a str) -> Vec<&'a str> {
    let values = options.split(['\n', ',']).filter_map(|option| option.split_once('='));
    let mut secrets: Vec<&str> =
        values.filter(|(key, _)| is_secret(key.trim())).map(|(_, value)| value).collect();
    secrets.extend(url_password(device).map(|(start, end)| &device[start..end]));
    // Nothing is hidden by cutting `1` out of every sentence.
    secrets.retain(|secret| secret.len() >= 3);
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
    fn secrets_are_cut_out_of_words() {
        let secrets = secrets("http://u:word@h", "password=hunter2,pw=1");
        assert_eq!(cut_out("hunter2 refused, so was word, 1", &secrets), "*** refused, so was ***, 1");
    }
}
