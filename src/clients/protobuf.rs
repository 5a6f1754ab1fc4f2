//! Protobuf as a registry's records have it: which message of the schema it is, and the message. Its schema is a text that anybody
//! may have registered.

use std::path::Path;

use anyhow::{Context, Result, bail};
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};
use protox::Compiler;
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};

const NAME: &str = "schema.proto";
/// Bytes of a schema, and how deep its parts may stand in each other: the reader calls itself for each.
const LARGEST: usize = 256 << 10;
const DEEPEST: usize = 32;
/// Steps from a file to one of its messages.
const STEPS: u64 = 32;

/// A schema that messages can be read with.
pub(super) struct Protobuf {
    pool: DescriptorPool,
}

/// The one file that there is.
struct Only(String);

impl FileResolver for Only {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        if name == NAME { File::from_source(name, &self.0) } else { Err(protox::Error::file_not_found(name)) }
    }

    fn resolve_path(&self, path: &Path) -> Option<String> {
        (path == Path::new(NAME)).then(|| NAME.to_owned())
    }
}

impl Protobuf {
    /// # Errors
    /// It is no schema, is too large or too deep, or imports another than Google's own.
    pub(super) fn read(schema: &str) -> Result<Self> {
        if schema.len() > LARGEST || depth(schema) > DEEPEST {
            bail!("its schema is too large");
        }
        let mut resolver = ChainFileResolver::new();
        resolver.add(Only(schema.to_owned()));
        resolver.add(GoogleFileResolver::new());
        let mut compiler = Compiler::with_file_resolver(resolver);
        compiler.include_imports(true);
        compiler.open_file(NAME).map_err(|why| anyhow::anyhow!("its schema cannot be read: {why}"))?;
        Ok(Self { pool: compiler.descriptor_pool() })
    }

    /// A message as JSON, numbers of 64 bits as texts; fields are called as in the schema. `bytes`: the steps to the message, and
    /// the message.
    ///
    /// # Errors
    /// It is none of that schema.
    pub(super) fn text(&self, mut bytes: &[u8]) -> Result<String> {
        let descriptor = self.message(&mut bytes)?;
        let message = DynamicMessage::decode(descriptor, bytes).context("it is no message of it")?;
        let options = SerializeOptions::new().use_proto_field_name(true).skip_default_fields(false);
        let mut out = serde_json::Serializer::new(Vec::new());
        message.serialize_with_options(&mut out, &options)?;
        Ok(String::from_utf8(out.into_inner())?)
    }

    /// Confluent's steps: how many, and the place of each message in the one before; none is the first message.
    fn message(&self, bytes: &mut &[u8]) -> Result<MessageDescriptor> {
        let count = zigzag(bytes)?;
        let mut steps = vec![0];
        if count > 0 {
            if count.unsigned_abs() > STEPS {
                bail!("it has {count} steps to its message");
            }
            steps = (0..count).map(|_| zigzag(bytes)).collect::<Result<_>>()?;
        }
        let file = self.pool.get_file_by_name(NAME).context("no file")?;
        let mut found: Option<MessageDescriptor> = None;
        for step in steps {
            let place = usize::try_from(step)?;
            let next = match &found {
                None => file.messages().nth(place),
                Some(message) => message.child_messages().nth(place),
            };
            found = Some(next.context("it has no such message")?);
        }
        found.context("it has no message")
    }
}

fn depth(schema: &str) -> usize {
    let mut deepest = 0_usize;
    let mut now = 0_usize;
    for c in schema.chars() {
        match c {
            '{' | '[' | '<' | '(' => {
                now += 1;
                deepest = deepest.max(now);
            }
            '}' | ']' | '>' | ')' => now = now.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// A number of variable length with its sign at the end.
fn zigzag(bytes: &mut &[u8]) -> Result<i64> {
    let mut number = 0_u64;
    for place in 0..10 {
        let (first, rest) = bytes.split_first().context("it ends before its message")?;
        *bytes = rest;
        number |= u64::from(first & 0x7f).checked_shl(place * 7).unwrap_or_default();
        if first & 0x80 == 0 {
            #[allow(clippy::cast_possible_wrap, reason = "half of it")]
            return Ok((number >> 1) as i64 ^ -((number & 1) as i64));
        }
    }
    bail!("a number in it has no end")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    const SCHEMA: &str = "syntax = \"proto3\"; import \"google/protobuf/timestamp.proto\";
        message Seen { int64 id = 1; string user_id = 2; google.protobuf.Timestamp at = 3;
            message Inner { bool yes = 1; } }
        message Other { Kind kind = 1; } enum Kind { NONE = 0; SOME = 1; }";

    #[rstest]
    #[case::the_first(&[0, 8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 18, 1, b'a'],
        r#"{"id":"9223372036854775807","user_id":"a"}"#)]
    #[case::the_second(&[2, 2, 8, 1], r#"{"kind":"SOME"}"#)]
    #[case::one_in_the_first(&[4, 0, 0, 8, 1], r#"{"yes":true}"#)]
    #[case::a_time(&[0, 26, 2, 8, 10], r#"{"id":"0","user_id":"","at":"1970-01-01T00:00:10Z"}"#)]
    fn a_message_is_json(#[case] bytes: &[u8], #[case] text: &str) {
        assert_eq!(Protobuf::read(SCHEMA).unwrap().text(bytes).unwrap(), text);
    }

    #[rstest]
    #[case::nothing(&[])]
    #[case::no_such_message(&[2, 8])]
    #[case::before_the_first(&[2, 1])]
    #[case::too_many_steps(&[0x80, 0x80, 1])]
    #[case::cut(&[0, 18, 9, b'a'])]
    fn what_is_no_message_says_so(#[case] bytes: &[u8]) {
        assert!(Protobuf::read(SCHEMA).unwrap().text(bytes).is_err());
    }

    #[test]
    fn a_schema_that_cannot_be_used_says_so() {
        let deep = format!("syntax = \"proto3\"; {}{}", "message A {".repeat(5000), "}".repeat(5000));
        let others = "syntax = \"proto3\"; import \"other.proto\";";
        for schema in ["no schema", &deep, others, &"x".repeat(LARGEST + 1)] {
            assert!(Protobuf::read(schema).is_err());
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = Protobuf::read(SCHEMA).unwrap().text(&bytes);
        }
    }
}
