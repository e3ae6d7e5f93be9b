//! Templates of commands, `mount_command` and `unmount_command`.
//!
//! Words are split as a shell splits them and never given to one. In a word, `{device}`, `{opts}`, `{driver}` and
//! `{target}` stand for values. A value has as many parts as it has lines: a word is repeated for each part, and vanishes
//! where there is none. `[-o {opts}]` repeats its words together, for each combination of the parts of the values in it.
//! `{{`, `}}`, `[[` and `]]` are the characters themselves.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A place for a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placeholder {
    /// What `mount` gets as its device.
    Device,
    /// The mount options.
    Opts,
    /// The filesystem type, `fuse` or `fuse.<helper>`.
    Driver,
    /// The mount point.
    Target,
}

const PLACEHOLDERS: [(&str, Placeholder); 4] = [
    ("device", Placeholder::Device),
    ("opts", Placeholder::Opts),
    ("driver", Placeholder::Driver),
    ("target", Placeholder::Target),
];

/// What the placeholders stand for.
#[derive(Clone, Copy, Debug)]
pub struct Values<'a> {
    /// For `{device}`.
    pub device: &'a str,
    /// For `{opts}`.
    pub opts: &'a str,
    /// For `{driver}`.
    pub driver: &'a str,
    /// For `{target}`.
    pub target: &'a str,
}

impl<'a> Values<'a> {
    fn parts(&self, placeholder: Placeholder) -> Vec<&'a str> {
        let value = match placeholder {
            Placeholder::Device => self.device,
            Placeholder::Opts => self.opts,
            Placeholder::Driver => self.driver,
            Placeholder::Target => self.target,
        };
        value.split('\n').filter(|part| !part.is_empty()).collect()
    }
}

/// A parsed template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Template {
    source: String,
    groups: Vec<Group>,
}

/// Words that are repeated together; a word outside brackets is a group of its own.
type Group = Vec<Word>;
type Word = Vec<Piece>;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Value(Placeholder),
}

/// Why a template can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// Quotes that do not match.
    #[error("a quote is not closed")]
    Quote,
    /// No word at all.
    #[error("it is empty; the usual one is `mount -t {{driver}} [-o {{opts}}] {{device}} {{target}}`")]
    Empty,
    /// A `{name}` that stands for nothing.
    #[error(
        "`{{{0}}}` stands for nothing; use {{device}}, {{opts}}, {{driver}} or {{target}}, and {{{{ for a brace"
    )]
    Unknown(String),
    /// A `{` without its `}`, or the other way round.
    #[error("a brace in `{0}` has no partner; write {{{{ or }}}} for the character itself")]
    Brace(String),
    /// A `[` without its `]`, or one within another.
    #[error("the brackets do not match at `{0}`; write [[ or ]] for the character itself")]
    Bracket(String),
    /// The program is not a plain word.
    #[error("its first word must be the program's name or path, as it is")]
    Program,
}

impl TemplateError {
    /// The same with what it cites of the template changed.
    #[must_use]
    pub fn map_words(self, change: impl Fn(&str) -> String) -> Self {
        match self {
            Self::Unknown(name) => Self::Unknown(change(&name)),
            Self::Brace(word) => Self::Brace(change(&word)),
            Self::Bracket(word) => Self::Bracket(change(&word)),
            Self::Quote | Self::Empty | Self::Program => self,
        }
    }
}

impl Template {
    /// Parse `source`.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn parse(source: &str) -> Result<Self, TemplateError> {
        let words = shell_words::split(source).map_err(|_| TemplateError::Quote)?;
        let mut groups: Vec<Group> = Vec::new();
        let mut open: Option<Group> = None;
        for word in words {
            let mut text = word.as_str();
            if let Some(rest) = text.strip_prefix('[').filter(|rest| !rest.starts_with('[')) {
                if open.is_some() {
                    return Err(TemplateError::Bracket(word));
                }
                (open, text) = (Some(Group::new()), rest);
            }
            let body = text.strip_suffix(']').filter(|body| !body.ends_with(']'));
            let bare_bracket = text.len() != word.len() || body.is_some();
            let text = body.unwrap_or(text);
            let parsed = parse_word(text)?;
            match (open.as_mut(), body.is_some()) {
                (Some(_), _) if bare_bracket && text.is_empty() => {}
                (Some(group), _) => group.push(parsed),
                (None, false) => groups.push(vec![parsed]),
                (None, true) => return Err(TemplateError::Bracket(word)),
            }
            if body.is_some() {
                groups.extend(open.take());
            }
        }
        if open.is_some() {
            return Err(TemplateError::Bracket("[".to_owned()));
        }
        let template = Self { source: source.to_owned(), groups };
        if template.groups.is_empty() {
            return Err(TemplateError::Empty);
        }
        if template.program().is_none_or(str::is_empty) {
            return Err(TemplateError::Program);
        }
        Ok(template)
    }

    /// The text that it was parsed from.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The program that it runs.
    #[must_use]
    pub fn program(&self) -> Option<&str> {
        match self.groups.first()?.as_slice() {
            [word] => match word.as_slice() {
                [Piece::Text(text)] => Some(text),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether `placeholder` occurs in it.
    #[must_use]
    pub fn uses(&self, placeholder: Placeholder) -> bool {
        self.groups.iter().flatten().flatten().any(|piece| *piece == Piece::Value(placeholder))
    }

    /// The command's words with `values` put in.
    #[must_use]
    pub fn expand(&self, values: &Values<'_>) -> Vec<String> {
        let mut out = Vec::new();
        for group in &self.groups {
            let used: Vec<Placeholder> = PLACEHOLDERS
                .iter()
                .map(|(_, placeholder)| *placeholder)
                .filter(|placeholder| {
                    group.iter().flatten().any(|piece| *piece == Piece::Value(*placeholder))
                })
                .collect();
            for choice in combinations(&used, values) {
                out.extend(group.iter().map(|word| render(word, &choice)));
            }
        }
        out
    }
}

/// Each way to choose one part for each of `used`.
fn combinations<'a>(used: &[Placeholder], values: &Values<'a>) -> Vec<Vec<(Placeholder, &'a str)>> {
    used.iter().fold(vec![Vec::new()], |chosen, placeholder| {
        let parts = values.parts(*placeholder);
        let extended = chosen.iter().flat_map(|choice| {
            parts.iter().map(move |part| {
                let mut choice = choice.clone();
                choice.push((*placeholder, *part));
                choice
            })
        });
        extended.collect()
    })
}

fn render(word: &Word, choice: &[(Placeholder, &str)]) -> String {
    let value =
        |wanted: &Placeholder| choice.iter().find(|(have, _)| have == wanted).map_or("", |(_, part)| part);
    word.iter()
        .map(|piece| match piece {
            Piece::Text(text) => text,
            Piece::Value(placeholder) => value(placeholder),
        })
        .collect()
}

fn parse_word(word: &str) -> Result<Word, TemplateError> {
    let mut pieces = Word::new();
    let mut text = String::new();
    let mut rest = word;
    while let Some(character) = rest.chars().next() {
        if let Some(double) = ["{{", "}}", "[[", "]]"].iter().find(|double| rest.starts_with(**double)) {
            text.push(character);
            rest = &rest[double.len()..];
        } else if character == '{' {
            let end = rest.find('}').ok_or_else(|| TemplateError::Brace(word.to_owned()))?;
            let name = &rest[1..end];
            let known = PLACEHOLDERS.iter().find(|(known, _)| *known == name);
            let (_, placeholder) = known.ok_or_else(|| TemplateError::Unknown(name.to_owned()))?;
            if !text.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut text)));
            }
            pieces.push(Piece::Value(*placeholder));
            rest = &rest[end + 1..];
        } else if character == '}' {
            return Err(TemplateError::Brace(word.to_owned()));
        } else {
            text.push(character);
            rest = &rest[character.len_utf8()..];
        }
    }
    if !text.is_empty() || (pieces.is_empty() && word.is_empty()) {
        pieces.push(Piece::Text(text));
    }
    Ok(pieces)
}

impl TryFrom<String> for Template {
    type Error = TemplateError;

    fn try_from(source: String) -> Result<Self, TemplateError> {
        Self::parse(&source)
    }
}

impl From<Template> for String {
    fn from(template: Template) -> Self {
        template.source
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn expand(template: &str, device: &str, opts: &str) -> Vec<String> {
        let values = Values { device, opts, driver: "fuse", target: "/t" };
        Template::parse(template).unwrap().expand(&values)
    }

    #[test]
    fn the_default_is_what_one_would_type() {
        let default = "mount -t {driver} [-o {opts}] {device} {target}";
        assert_eq!(expand(default, "a#b", "x,y"), ["mount", "-t", "fuse", "-o", "x,y", "a#b", "/t"]);
        assert_eq!(expand(default, "a#b", ""), ["mount", "-t", "fuse", "a#b", "/t"]);
        assert_eq!(
            expand(default, "a#b", "x\ny"),
            ["mount", "-t", "fuse", "-o", "x", "-o", "y", "a#b", "/t"]
        );
    }

    #[test]
    fn values_are_never_split_nor_given_to_a_shell() {
        assert_eq!(expand("p '{device} x' {opts}", "a b; rm", "$(c)"), ["p", "a b; rm x", "$(c)"]);
    }

    #[test]
    fn combinations_of_values_in_one_group() {
        assert_eq!(
            expand("p [-d {device} -o {opts}]", "1\n2", "a\nb"),
            ["p", "-d", "1", "-o", "a", "-d", "1", "-o", "b", "-d", "2", "-o", "a", "-d", "2", "-o", "b"]
        );
        assert_eq!(expand("p --x={opts}", "", "a\nb"), ["p", "--x=a", "--x=b"]);
        assert_eq!(expand("p [ -o {opts} ] z", "", "a"), ["p", "-o", "a", "z"]);
    }

    #[test]
    fn doubled_characters_are_themselves() {
        assert_eq!(expand("p {{x}} [[y]] ''", "", ""), ["p", "{x}", "[y]", ""]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let error = |source: &str| Template::parse(source).unwrap_err();
        assert_eq!(error(""), TemplateError::Empty);
        assert_eq!(error("p 'x"), TemplateError::Quote);
        assert_eq!(error("p {devise}"), TemplateError::Unknown("devise".to_owned()));
        assert!(matches!(error("p {device"), TemplateError::Brace(_)));
        assert!(matches!(error("p device}"), TemplateError::Brace(_)));
        assert!(matches!(error("p [-o {opts}"), TemplateError::Bracket(_)));
        assert!(matches!(error("p -o {opts}]"), TemplateError::Bracket(_)));
        assert!(matches!(error("p [a [b]]"), TemplateError::Bracket(_)));
        assert_eq!(error("{device} x"), TemplateError::Program);
        assert_eq!(error("[p x]"), TemplateError::Program);
    }

    proptest! {
        #[test]
        fn any_text_parses_or_is_refused_without_a_panic(source in ".{0,40}", value in ".{0,20}") {
            if let Ok(template) = Template::parse(&source) {
                _ = template.expand(&Values { device: &value, opts: &value, driver: "fuse", target: "/t" });
                prop_assert_eq!(Template::parse(&String::from(template.clone())).unwrap(), template);
            }
        }

        #[test]
        fn a_value_reaches_the_program_as_it_is(value in "[^\n]{1,30}") {
            let values = Values { device: &value, opts: "", driver: "fuse", target: "/t" };
            let words = Template::parse("p {device}").unwrap().expand(&values);
            prop_assert_eq!(words, vec!["p".to_owned(), value.clone()]);
        }
    }
}
