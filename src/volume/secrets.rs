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
    mask(options, &secret_values(options, OPTION_ENDS))
}

/// A device with its secrets masked: the password in `user:password@host`, and values as in `:s3,secret_access_key=…:bucket`.
#[must_use]
pub(super) fn mask_device(device: &str) -> String {
    mask(device, &device_secrets(device))
}

/// Where a piece of a text is, in bytes.
type Span = (usize, usize);

/// What ends an option among mount options.
const OPTION_ENDS: &[char] = &[',', '\n'];
/// What ends one within a device: connection strings and queries have them all.
const DEVICE_ENDS: &[char] = &[',', ':', ';', '&', '?', '#', '\n'];

fn mask(text: &str, spans: &[Span]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    for (start, end) in spans.iter().filter(|(start, end)| start < end) {
        if *start >= done {
            out.push_str(&text[done..*start]);
            out.push_str(MASK);
            done = *end;
        }
    }
    out + &text[done..]
}

/// The values of secret options in `text`, whose options end at `ends`. A backslash and quotes keep an end from being one.
fn secret_values(text: &str, ends: &[char]) -> Vec<Span> {
    let (mut spans, mut start, mut quote, mut escaped) = (Vec::new(), 0, None, false);
    let mut take = |start: usize, end: usize| {
        if let Some((key, value)) = text[start..end].split_once('=')
            && is_secret(key.trim())
        {
            spans.push((end - value.len(), end));
        }
    };
    for (at, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' | '\'' if quote == Some(character) => quote = None,
            // One that opens a value; an apostrophe within a word is only that.
            '"' | '\'' if quote.is_none() && text[..at].ends_with('=') => quote = Some(character),
            _ if quote.is_none() && ends.contains(&character) => {
                take(start, at);
                start = at + character.len_utf8();
            }
            _ => {}
        }
    }
    take(start, text.len());
    spans
}

fn device_secrets(device: &str) -> Vec<Span> {
    let mut spans = secret_values(device, DEVICE_ENDS);
    spans.extend(user_password(device));
    spans.sort_unstable();
    spans
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
            None => out.push(mask_options(word)),
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
    let of_options = secret_values(options, OPTION_ENDS).into_iter().map(|(start, end)| &options[start..end]);
    let of_device = device_secrets(device).into_iter().map(|(start, end)| &device[start..end]);
    of_options.chain(of_device).filter(|secret| secret.len() >= SHORTEST).collect()
}

/// `text` without the `secrets`.
#[must_use]
pub(super) fn cut_out(text: &str, secrets: &[&str]) -> String {
    secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret, MASK))
}

/// The password in `user:password@host`, after a helper's `#` and a URL's `://` if there are any.
fn user_password(device: &str) -> Option<Span> {
    let begin =
        device.find("://").map(|at| at + 3).or_else(|| device.find('#').map(|at| at + 1)).unwrap_or(0);
    let end = device[begin..].find('/').map_or(device.len(), |at| begin + at);
    let at = begin + device[begin..end].rfind('@')?;
    let colon = begin + device[begin..at].find(':')?;
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
    fn what_rclone_and_curlftpfs_are_told_is_masked() {
        assert_eq!(
            mask_device(":s3,provider=AWS,secret_access_key=TOPSECRET,region=x:bucket/a=b"),
            ":s3,provider=AWS,secret_access_key=***,region=x:bucket/a=b"
        );
        assert_eq!(mask_device("rclonefs#:sftp,pass=\"a:b,c\":dir"), "rclonefs#:sftp,pass=***:dir");
        assert_eq!(mask_device("curlftpfs#me:hunter2@host/x@y"), "curlftpfs#me:***@host/x@y");
        assert_eq!(mask_device("sshfs#me@[::1]:/x@y:z"), "sshfs#me@[::1]:/x@y:z");
    }

    #[test]
    fn an_escaped_comma_is_part_of_the_secret() {
        assert_eq!(mask_options("password=hun\\,ter2,ro"), "password=***,ro");
        assert_eq!(secrets("", "password=hun\\,ter2,ro"), ["hun\\,ter2"]);
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
