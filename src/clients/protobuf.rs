//! Protobuf as a registry's records have it: which message of the schema it is, and the message. Its schema is a text that anybody
//! may have registered.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};
use protox::Compiler;
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};

const NAME: &str = "schema.proto";
/// Bytes of a schema.
const LARGEST: usize = 64 << 10;
/// Bytes of a message, and of its JSON: a part without anything in it is two bytes here and all of its fields there.
const MESSAGE: usize = 1 << 20;
const TEXT: usize = 4 << 20;
/// What a schema may import. With `descriptor` it could have options, and with `any` messages, of any depth: what reads them calls
/// itself for each.
const IMPORTS: [&str; 6] = ["duration", "empty", "field_mask", "struct", "timestamp", "wrappers"];
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

/// Those of Google's own files that may be imported.
struct Google(GoogleFileResolver);

impl FileResolver for Google {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        let known = IMPORTS.iter().any(|known| name == format!("google/protobuf/{known}.proto"));
        if known { self.0.open_file(name) } else { Err(protox::Error::file_not_found(name)) }
    }
}

impl Protobuf {
    /// # Errors
    /// It is no schema, is too large, or imports another than those of [`IMPORTS`].
    pub(super) fn read(schema: &str) -> Result<Self> {
        if schema.len() > LARGEST {
            bail!("its schema has more than {LARGEST} bytes");
        }
        let mut resolver = ChainFileResolver::new();
        resolver.add(Only(schema.to_owned()));
        resolver.add(Google(GoogleFileResolver::new()));
        let mut compiler = Compiler::with_file_resolver(resolver);
        compiler.include_imports(true);
        compiler.open_file(NAME).map_err(|why| anyhow!("its schema cannot be read: {why}"))?;
        Ok(Self { pool: compiler.descriptor_pool() })
    }

    /// A message as JSON, numbers of 64 bits as texts; fields are called as in the schema. `bytes`: the steps to the message, and
    /// the message.
    ///
    /// # Errors
    /// It is none of that schema.
    pub(super) fn text(&self, mut bytes: &[u8]) -> Result<String> {
        if bytes.len() > MESSAGE {
            bail!("it has more than {MESSAGE} bytes");
        }
        let descriptor = self.message(&mut bytes)?;
        let message = DynamicMessage::decode(descriptor, bytes).context("it is no message of it")?;
        let options = SerializeOptions::new().use_proto_field_name(true).skip_default_fields(false);
        let mut text = Bounded(Vec::new());
        message.serialize_with_options(&mut serde_json::Serializer::new(&mut text), &options)?;
        Ok(String::from_utf8(text.0)?)
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

/// Takes no more than [`TEXT`] bytes.
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > TEXT {
            return Err(std::io::Error::other("its text is too long"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
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
        let any = "syntax = \"proto3\"; import \"google/protobuf/any.proto\"; message A { google.protobuf.Any a = 1; }";
        let others = "syntax = \"proto3\"; import \"other.proto\";";
        for schema in ["no schema", &deep, any, others, &"x".repeat(LARGEST + 1)] {
            assert!(Protobuf::read(schema).is_err());
        }
    }

    #[test]
    fn a_schema_may_be_as_deep_as_it_is_long() {
        let parts = "r { s: \"}\" ".repeat(4000);
        let schema = format!(
            "syntax = \"proto3\"; message R {{ optional R r = 1; optional string s = 2; }} \
             extend google.protobuf.FileOptions {{ R o = 50000; }} option (o) = {{ {parts}{} }};",
            "}".repeat(4000)
        );
        // Whether it is taken is not asked: that it ends the program would be the fault.
        let _ = Protobuf::read(&schema);
    }

    #[test]
    fn a_message_whose_text_is_far_longer_says_so() {
        let fields: String = (1..100).map(|n| format!("int32 a_long_name_of_a_field_{n} = {n}; ")).collect();
        let schema =
            format!("syntax = \"proto3\"; message A {{ repeated B b = 1; }} message B {{ {fields} }}");
        let message = [&[0][..], &[10, 0].repeat(100_000)].concat();
        assert!(Protobuf::read(&schema).unwrap().text(&message).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = Protobuf::read(SCHEMA).unwrap().text(&bytes);
        }
    }
}
