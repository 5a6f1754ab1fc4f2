//! Conditions of a pipeline file: fields, texts and numbers, compared, negated and joined.

use winnow::combinator::{alt, cut_err, delimited, opt, preceded, repeat, separated};
use winnow::error::{ContextError, ErrMode};
use winnow::prelude::*;
use winnow::stream::Location as _;
use winnow::token::{any, none_of, take_while};

use super::{Comparison, Condition, Input, Operand, Test, number, quoted, sign, space, wanted, word};

pub(super) fn condition(input: &mut Input<'_>) -> ModalResult<Condition> {
    space.parse_next(input)?;
    let line = input.current_token_start();
    let first = single.parse_next(input)?;
    let mut parts = vec![first];
    let mut joined: Option<&str> = None;
    loop {
        let before = *input;
        let word = opt(delimited(space, alt(("and", "or", "xor", "nand")), space)).parse_next(input)?;
        match (word, joined) {
            (None, None) => {
                let Some(only) = parts.pop() else { return Err(ErrMode::Cut(ContextError::new())) };
                return Ok(only);
            }
            (None, Some(by)) => {
                let test = if by == "and" { Test::All(parts) } else { Test::Any(parts) };
                return Ok(Condition { line, test });
            }
            (Some("xor" | "nand"), _) => {
                *input = before;
                space.parse_next(input)?;
                return refuse(input, "`and`, `or` or `{`: xor and nand are not known here");
            }
            // How a mix of both binds surprises people.
            (Some(word), Some(by)) if word != by => {
                *input = before;
                space.parse_next(input)?;
                return refuse(input, "parentheses where `and` and `or` are mixed");
            }
            (Some(word), _) => {
                joined = Some(word);
                parts.push(cut_err(single).parse_next(input)?);
            }
        }
    }
}

fn refuse<T>(input: &mut Input<'_>, text: &'static str) -> ModalResult<T> {
    let nothing = winnow::combinator::fail::<_, (), ErrMode<ContextError>>;
    cut_err(nothing.context(wanted(text))).parse_next(input)?;
    Err(ErrMode::Cut(ContextError::new()))
}

fn single(input: &mut Input<'_>) -> ModalResult<Condition> {
    space.parse_next(input)?;
    let line = input.current_token_start();
    let in_parentheses = |input: &mut Input<'_>| {
        delimited(('(', space), condition, cut_err((space, ')').context(wanted("`)`")))).parse_next(input)
    };
    if opt('!').parse_next(input)?.is_some() {
        space.parse_next(input)?;
        let inside = cut_err(alt((
            in_parentheses,
            operand.map(|found| Condition { line, test: Test::Truthy(found) }),
        )))
        .parse_next(input)?;
        return Ok(Condition { line, test: Test::Not(Box::new(inside)) });
    }
    if let Some(inside) = opt(in_parentheses).parse_next(input)? {
        return Ok(inside);
    }
    let left = operand
        .context(wanted("a condition: a field in brackets, a text, a number or parentheses"))
        .parse_next(input)?;
    let before = *input;
    space.parse_next(input)?;
    let not = |test| Test::Not(Box::new(Condition { line, test }));
    let test = if let Some(negated) = opt(alt(("=~".value(false), "!~".value(true)))).parse_next(input)? {
        space.parse_next(input)?;
        let mut pattern =
            cut_err(alt((quoted, regex)).context(wanted("a pattern in quotes or between slashes")));
        let matches = Test::Matches(left, pattern.parse_next(input)?);
        if negated { not(matches) } else { matches }
    } else if let Some(comparison) = opt(comparison).parse_next(input)? {
        space.parse_next(input)?;
        Test::Compare(
            left,
            comparison,
            cut_err(operand.context(wanted("a field, a text or a number"))).parse_next(input)?,
        )
    } else if opt((word("not"), space, word("in"))).parse_next(input)?.is_some() {
        space.parse_next(input)?;
        not(Test::In(left, cut_err(operand.context(wanted("a list or a field"))).parse_next(input)?))
    } else if opt(word("in")).parse_next(input)?.is_some() {
        space.parse_next(input)?;
        Test::In(left, cut_err(operand.context(wanted("a list or a field"))).parse_next(input)?)
    } else {
        *input = before;
        Test::Truthy(left)
    };
    Ok(Condition { line, test })
}

fn comparison(input: &mut Input<'_>) -> ModalResult<Comparison> {
    alt((
        "==".value(Comparison::Equal),
        "!=".value(Comparison::NotEqual),
        "<=".value(Comparison::LessOrEqual),
        ">=".value(Comparison::GreaterOrEqual),
        "<".value(Comparison::Less),
        ">".value(Comparison::Greater),
    ))
    .parse_next(input)
}

fn regex(input: &mut Input<'_>) -> ModalResult<String> {
    let inside = repeat::<_, _, (), _, _>(0.., alt((('\\', any).void(), none_of(['/', '\n']).void()))).take();
    delimited('/', inside, cut_err('/'.context(wanted("the end of a pattern: `/`"))))
        .map(|text: &str| text.replace("\\/", "/"))
        .parse_next(input)
}

fn operand(input: &mut Input<'_>) -> ModalResult<Operand> {
    let brackets = delimited('[', take_while(1.., |c| !"[],\"'\n".contains(c)), ']');
    let field =
        repeat::<_, _, (), _, _>(1.., brackets).take().map(|text: &str| Operand::Field(text.to_owned()));
    let items = separated(1.., preceded(space, operand), sign(","));
    let list = delimited('[', items, (space, ']')).map(Operand::List);
    alt((field, list, quoted.map(Operand::Text), number.map(Operand::Number))).parse_next(input)
}
