//! A topic of a trial's own with a schema of its own: nobody else's offsets and versions are in the way.

use anyhow::{Result, bail};
use apache_avro::types::Value as Avro;
use schema_registry_converter::async_impl::avro::AvroEncoder;
use schema_registry_converter::schema_registry_common::SubjectNameStrategy;
use streamlab::clients::kafka;
use streamlab::clients::schema_registry::{self, Registered, SchemaRegistry};

use crate::lab::Lab;
use crate::transactions::new_run;

pub(crate) struct AvroTopic {
    pub(crate) registry: SchemaRegistry,
    pub(crate) name: String,
    pub(crate) subject: String,
    /// Of the first version.
    pub(crate) schema_id: u32,
    encoder: AvroEncoder,
}

impl AvroTopic {
    /// One partition; the schema's successors must be BACKWARD compatible.
    pub(crate) async fn new(lab: &Lab, prefix: &str, schema: &str) -> Result<Self> {
        let registry = SchemaRegistry::new(lab.endpoints.registry_url()?);
        let name = format!("{prefix}-{}", new_run());
        let subject = format!("{name}-value");
        kafka::create_topic(&lab.bootstrap(), &name, 1).await?;
        let Registered::Id(schema_id) = registry.register(&subject, schema).await? else {
            bail!("the first schema is refused")
        };
        registry.set_subject_compatibility(&subject, "BACKWARD").await?;
        let encoder = AvroEncoder::new(schema_registry::settings(registry.url())?);
        Ok(Self { registry, name, subject, schema_id, encoder })
    }

    /// A record as the registry's newest schema has it.
    pub(crate) async fn encode(&self, fields: Vec<(&str, Avro)>) -> Result<Vec<u8>> {
        let strategy = SubjectNameStrategy::TopicNameStrategy(self.name.clone(), false);
        Ok(self.encoder.encode(fields, strategy).await?)
    }
}

/// The registry refuses a schema because it is not compatible.
pub(crate) async fn refused(registry: &SchemaRegistry, subject: &str, schema: &str) -> Result<()> {
    match registry.register(subject, schema).await? {
        Registered::Incompatible(body) if body.contains("409") => Ok(()),
        other => bail!("{subject} should refuse an incompatible schema with 409: {other:?}"),
    }
}
