//! The text of a pipeline file → its sections, plugins and conditions, each with its line. What plugins and options mean is not
//! known here.

mod conditions;

use winnow::ascii::{digit1, multispace1};
use winnow::combinator::{alt, cut_err, delimited, eof, opt, preceded, repeat, separated};
use winnow::error::{ContextError, ErrMode, StrContext, StrContextValue};
use winnow::prelude::*;
use winnow::stream::{LocatingSlice, Location as _};
use winnow::token::{none_of, take_while};

use self::conditions::condition;
use crate::{Checked, Mistake};

type Input<'a> = LocatingSlice<&'a str>;

/// Byte offset, until the whole text is read; then the line.
pub(crate) type Place = usize;

/// A file, by its sections; the same section may be there more than once.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Sections {
    pub(crate) inputs: Vec<Statement>,
    pub(crate) filters: Vec<Statement>,
    pub(crate) outputs: Vec<Statement>,
}

/// A plugin, or a choice between blocks of them.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Statement {
    Plugin(Plugin),
    /// The first whose condition holds; the last may have none.
    Choice(Vec<(Option<Condition>, Vec<Statement>)>),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plugin {
    pub(crate) name: String,
    pub(crate) line: Place,
    pub(crate) options: Vec<Attribute>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Attribute {
    pub(crate) name: String,
    pub(crate) line: Place,
    pub(crate) value: Value,
}

/// The value of an option.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    /// In quotes, or a bare word.
    Text(String),
    Number(f64),
    List(Vec<Value>),
    Hash(Vec<(String, Value)>),
    /// A plugin within: `codec => multiline { … }`.
    Plugin(Plugin),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Condition {
    pub(crate) line: Place,
    pub(crate) test: Test,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Test {
    All(Vec<Condition>),
    Any(Vec<Condition>),
    Not(Box<Condition>),
    /// A field that is there, and neither false nor empty.
    Truthy(Operand),
    Compare(Operand, Comparison, Operand),
    In(Operand, Operand),
    Matches(Operand, String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Operand {
    /// A field, as it is written: `[a][b]`.
    Field(String),
    Text(String),
    Number(f64),
    List(Vec<Operand>),
}

/// How deep braces, brackets and parentheses may stand in each other: each level is a call within another.
const DEEPEST: usize = 100;

/// The line in which they stand deeper. A bracket within a pattern between slashes counts too, and is closed there.
fn too_deep(text: &str) -> Option<usize> {
    let (mut depth, mut line, mut quote, mut comment) = (0_usize, 1, None, false);
    for c in text.chars() {
        if c == '\n' {
            line += 1;
            comment = false;
        }
        match (quote, c) {
            _ if comment => {}
            (Some(open), _) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '#') => comment = true,
            (None, '(' | '[' | '{') => depth += 1,
            (None, ')' | ']' | '}') => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEEPEST {
            return Some(line);
        }
    }
    None
}

/// Reads a file.
pub(crate) fn parse(text: &str) -> Checked<Sections> {
    if let Some(line) = too_deep(text) {
        let message = format!("more than {DEEPEST} braces, brackets or parentheses within each other");
        return Err(Mistake { line, message });
    }
    let line_of = |place: usize| text.as_bytes().iter().take(place).filter(|b| **b == b'\n').count() + 1;
    let mut sections = file.parse(LocatingSlice::new(text)).map_err(|error| {
        let line = line_of(error.offset());
        let rest = text.get(error.offset()..).unwrap_or_default();
        let seen: String = rest.lines().next().unwrap_or_default().trim().chars().take(40).collect();
        let seen = if seen.is_empty() && rest.trim().is_empty() {
            "the file ends".to_owned()
        } else {
            format!("found `{seen}`")
        };
        let expected: Vec<String> = error
            .inner()
            .context()
            .filter_map(|context| match context {
                StrContext::Expected(wanted) => Some(wanted.to_string()),
                _ => None,
            })
            .take(1)
            .collect();
        let expected = expected.first().map_or("input, filter or output", String::as_str);
        Mistake { line, message: format!("expected {expected}, {seen}") }
    })?;
    let blocks = [&mut sections.inputs, &mut sections.filters, &mut sections.outputs];
    blocks.into_iter().for_each(|block| number_lines(block, &line_of));
    Ok(sections)
}

/// Puts lines where byte offsets are.
fn number_lines(block: &mut [Statement], line_of: &impl Fn(usize) -> usize) {
    for statement in block {
        match statement {
            Statement::Plugin(plugin) => number_plugin(plugin, line_of),
            Statement::Choice(branches) => {
                for (when, inside) in branches {
                    if let Some(when) = when {
                        number_condition(when, line_of);
                    }
                    number_lines(inside, line_of);
                }
            }
        }
    }
}

fn number_plugin(plugin: &mut Plugin, line_of: &impl Fn(usize) -> usize) {
    plugin.line = line_of(plugin.line);
    for option in &mut plugin.options {
        option.line = line_of(option.line);
        if let Value::Plugin(within) = &mut option.value {
            number_plugin(within, line_of);
        }
    }
}

fn number_condition(condition: &mut Condition, line_of: &impl Fn(usize) -> usize) {
    condition.line = line_of(condition.line);
    match &mut condition.test {
        Test::All(parts) | Test::Any(parts) => {
            parts.iter_mut().for_each(|part| number_condition(part, line_of));
        }
        Test::Not(part) => number_condition(part, line_of),
        Test::Truthy(_) | Test::Compare(..) | Test::In(..) | Test::Matches(..) => {}
    }
}

fn wanted(text: &'static str) -> StrContext {
    StrContext::Expected(StrContextValue::Description(text))
}

/// White space and comments.
fn space(input: &mut Input<'_>) -> ModalResult<()> {
    let comment = ('#', take_while(0.., |c| c != '\n')).void();
    repeat::<_, _, (), _, _>(0.., alt((multispace1.void(), comment))).parse_next(input)
}

/// A sign with space around it.
fn sign<'a>(text: &'static str) -> impl Parser<Input<'a>, (), ErrMode<ContextError>> {
    delimited(space, text, space).void()
}

fn file(input: &mut Input<'_>) -> ModalResult<Sections> {
    let mut sections = Sections::default();
    space.parse_next(input)?;
    while opt(eof).parse_next(input)?.is_none() {
        let kind = alt(("input", "filter", "output"))
            .context(wanted("input, filter or output"))
            .parse_next(input)?;
        let inside = cut_err(braces).parse_next(input)?;
        space.parse_next(input)?;
        match kind {
            "input" => sections.inputs.extend(inside),
            "filter" => sections.filters.extend(inside),
            _ => sections.outputs.extend(inside),
        }
    }
    Ok(sections)
}

fn braces(input: &mut Input<'_>) -> ModalResult<Vec<Statement>> {
    sign("{").context(wanted("`{`")).parse_next(input)?;
    let mut inside = Vec::new();
    loop {
        space.parse_next(input)?;
        if opt('}').parse_next(input)?.is_some() {
            return Ok(inside);
        }
        inside.push(cut_err(statement).parse_next(input)?);
    }
}

fn statement(input: &mut Input<'_>) -> ModalResult<Statement> {
    if opt(word("if")).parse_next(input)?.is_some() {
        return cut_err(choice).parse_next(input);
    }
    plugin.map(Statement::Plugin).context(wanted("a plugin, `if` or `}`")).parse_next(input)
}

/// A word that ends there: not the beginning of a longer one.
fn word<'a>(text: &'static str) -> impl Parser<Input<'a>, (), ErrMode<ContextError>> {
    (text, winnow::combinator::not(take_while(1, is_name))).void()
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

fn choice(input: &mut Input<'_>) -> ModalResult<Statement> {
    let mut branches = vec![(Some(condition.parse_next(input)?), braces.parse_next(input)?)];
    loop {
        let before = *input;
        space.parse_next(input)?;
        if opt(word("else")).parse_next(input)?.is_none() {
            *input = before;
            return Ok(Statement::Choice(branches));
        }
        space.parse_next(input)?;
        if opt(word("if")).parse_next(input)?.is_some() {
            branches.push((Some(cut_err(condition).parse_next(input)?), cut_err(braces).parse_next(input)?));
        } else {
            branches.push((None, cut_err(braces).parse_next(input)?));
            return Ok(Statement::Choice(branches));
        }
    }
}

fn plugin(input: &mut Input<'_>) -> ModalResult<Plugin> {
    let line = input.current_token_start();
    let name = take_while(1.., is_name).parse_next(input)?.to_owned();
    cut_err(sign("{").context(wanted("`{` after a plugin's name"))).parse_next(input)?;
    let mut options = Vec::new();
    loop {
        space.parse_next(input)?;
        if opt('}').parse_next(input)?.is_some() {
            return Ok(Plugin { name, line, options });
        }
        options.push(cut_err(attribute).parse_next(input)?);
    }
}

fn attribute(input: &mut Input<'_>) -> ModalResult<Attribute> {
    let line = input.current_token_start();
    let name = alt((take_while(1.., is_name).map(str::to_owned), quoted))
        .context(wanted("an option or `}`"))
        .parse_next(input)?;
    cut_err(sign("=>").context(wanted("`=>` after an option's name"))).parse_next(input)?;
    let value = cut_err(value.context(wanted("a value"))).parse_next(input)?;
    Ok(Attribute { name, line, value })
}

fn value(input: &mut Input<'_>) -> ModalResult<Value> {
    let within = |input: &mut Input<'_>| {
        let before = *input;
        let name: Option<&str> = opt(take_while(1.., is_name)).parse_next(input)?;
        let opens = name.is_some() && opt(sign("{")).parse_next(input)?.is_some();
        *input = before;
        if opens {
            plugin.map(Value::Plugin).parse_next(input)
        } else {
            Err(ErrMode::Backtrack(ContextError::new()))
        }
    };
    alt((
        within,
        number.map(Value::Number),
        list.map(Value::List),
        hash.map(Value::Hash),
        quoted.map(Value::Text),
        bareword.map(Value::Text),
    ))
    .parse_next(input)
}

/// As in Logstash: letters, digits and `_`, not beginning with a digit, two at the least.
fn bareword(input: &mut Input<'_>) -> ModalResult<String> {
    let begins = |c: char| c.is_ascii_alphabetic() || c == '_';
    (take_while(1, begins), take_while(1.., |c: char| c.is_ascii_alphanumeric() || c == '_'))
        .take()
        .map(|text: &str| text.to_owned())
        .parse_next(input)
}

/// In either kind of quotes. There are no escapes, except that `\"` does not end a text; it stays as it is.
fn quoted(input: &mut Input<'_>) -> ModalResult<String> {
    let within = |quote: char| {
        let inside = repeat::<_, _, (), _, _>(0.., alt((('\\', quote).void(), none_of(quote).void()))).take();
        let end = cut_err(quote.context(wanted("the end of a text in quotes")));
        delimited(quote, inside, end).map(|text: &str| text.to_owned())
    };
    alt((within('"'), within('\''))).parse_next(input)
}

fn number(input: &mut Input<'_>) -> ModalResult<f64> {
    (opt('-'), digit1, opt(('.', digit1))).take().parse_to().parse_next(input)
}

fn list(input: &mut Input<'_>) -> ModalResult<Vec<Value>> {
    let items = separated(0.., preceded(space, value), sign(","));
    delimited('[', items, cut_err((space, ']').context(wanted("`,` or `]`")))).parse_next(input)
}

fn hash(input: &mut Input<'_>) -> ModalResult<Vec<(String, Value)>> {
    '{'.parse_next(input)?;
    let mut entries = Vec::new();
    loop {
        space.parse_next(input)?;
        // Entries are separated by white space; a comma is a common mistake.
        if opt('}').parse_next(input)?.is_some() {
            return Ok(entries);
        }
        let key = alt((quoted, bareword, digit1.map(str::to_owned)))
            .context(wanted("a key or `}`; entries are separated by white space"));
        let key = cut_err(key).parse_next(input)?;
        cut_err(sign("=>").context(wanted("`=>` after a key"))).parse_next(input)?;
        entries.push((key, cut_err(value.context(wanted("a value"))).parse_next(input)?));
    }
}
