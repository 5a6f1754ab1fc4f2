//! Committed offsets of many groups, asked of each coordinator in one question. librdkafka asks for one group's, and only in that
//! group's own name: a client each.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};

use anyhow::{Context as _, Result, bail};
use bytes::{Buf as _, BytesMut};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::{
    FindCoordinatorRequest, GroupId, OffsetFetchRequest, RequestHeader, ResponseHeader,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};

use super::groups::TopicPartition;
use super::kafka::PATIENCE;

/// Many groups in one question since Kafka 3.0: versions of FindCoordinator and OffsetFetch.
const FIND_COORDINATOR: i16 = 4;
const OFFSET_FETCH: i16 = 8;
/// So many groups in one question, and so many bytes in one answer.
const AT_ONCE: usize = 500;
const LONGEST_ANSWER: usize = 32 << 20;

/// Committed offset of each partition that a group has committed, by group.
pub(super) type Committed = BTreeMap<String, BTreeMap<TopicPartition, i64>>;

/// Connections to brokers by address; one that fails is made anew for the next question.
pub(super) struct Coordinators {
    bootstrap: String,
    open: BTreeMap<String, TcpStream>,
}

impl Coordinators {
    /// `bootstrap`: `host:port,…`. It connects when it is first used.
    pub(super) fn new(bootstrap: &str) -> Self {
        Self { bootstrap: bootstrap.to_owned(), open: BTreeMap::new() }
    }

    /// What these groups have committed. A group whose coordinator is moving at this moment is left out.
    ///
    /// # Errors
    /// No broker answers, or a coordinator does not.
    pub(super) fn committed(&mut self, groups: &[&str]) -> Result<Committed> {
        let mut committed = Committed::new();
        for some in groups.chunks(AT_ONCE) {
            for (address, groups) in self.find(some)? {
                committed.extend(self.fetch(&address, groups)?);
            }
        }
        Ok(committed)
    }

    /// The groups of each coordinator, by its address.
    fn find(&mut self, groups: &[&str]) -> Result<BTreeMap<String, Vec<StrBytes>>> {
        let keys = groups.iter().map(|group| StrBytes::from_string((*group).to_owned())).collect();
        let request = FindCoordinatorRequest::default().with_coordinator_keys(keys);
        let mut last = None;
        for address in self.bootstrap.clone().split(',') {
            match self.ask(address, &request, FIND_COORDINATOR) {
                Ok(answer) => {
                    let mut found: BTreeMap<String, Vec<StrBytes>> = BTreeMap::new();
                    for c in answer.coordinators.into_iter().filter(|c| c.error_code == 0) {
                        found.entry(format!("{}:{}", c.host, c.port)).or_default().push(c.key);
                    }
                    return Ok(found);
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| anyhow::anyhow!("there is no broker to ask")))
    }

    fn fetch(&mut self, address: &str, groups: Vec<StrBytes>) -> Result<Committed> {
        let of = |group| OffsetFetchRequestGroup::default().with_group_id(GroupId(group)).with_topics(None);
        let request = OffsetFetchRequest::default().with_groups(groups.into_iter().map(of).collect());
        let answer = self.ask(address, &request, OFFSET_FETCH)?;
        let known = answer.groups.into_iter().filter(|group| group.error_code == 0);
        let committed = known.map(|group| {
            let partitions = group.topics.into_iter().flat_map(|topic| {
                let name = topic.name.0.to_string();
                let known =
                    topic.partitions.into_iter().filter(|p| p.error_code == 0 && p.committed_offset >= 0);
                known.map(move |p| ((name.clone(), p.partition_index), p.committed_offset))
            });
            (group.group_id.0.to_string(), partitions.collect())
        });
        Ok(committed.collect())
    }

    fn ask<R: Request>(&mut self, address: &str, request: &R, version: i16) -> Result<R::Response> {
        let mut stream = match self.open.remove(address) {
            Some(stream) => stream,
            None => connect(address)?,
        };
        let answer = exchange(&mut stream, request, version).with_context(|| format!("broker {address}"))?;
        // Kept only where the answer was whole.
        self.open.insert(address.to_owned(), stream);
        Ok(answer)
    }
}

fn connect(address: &str) -> Result<TcpStream> {
    let mut last = None;
    for socket in address.to_socket_addrs().with_context(|| format!("broker {address} is not known"))? {
        match TcpStream::connect_timeout(&socket, PATIENCE) {
            Ok(stream) => {
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = Some(error),
        }
    }
    match last {
        Some(error) => Err(error).with_context(|| format!("broker {address} does not answer")),
        None => bail!("broker {address} has no address"),
    }
}

/// One request and its answer, each with its length before it.
fn exchange<R: Request>(stream: &mut TcpStream, request: &R, version: i16) -> Result<R::Response> {
    let header = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_client_id(Some(StrBytes::from_static_str("streamlab")));
    let mut bytes = BytesMut::new();
    header.encode(&mut bytes, R::header_version(version))?;
    request.encode(&mut bytes, version)?;
    stream.write_all(&u32::try_from(bytes.len())?.to_be_bytes())?;
    stream.write_all(&bytes)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > LONGEST_ANSWER {
        bail!("an answer of {length} bytes");
    }
    let mut answer = BytesMut::zeroed(length);
    stream.read_exact(&mut answer)?;
    let mut answer = answer.freeze();
    ResponseHeader::decode(&mut answer, R::Response::header_version(version))?;
    let decoded = R::Response::decode(&mut answer, version)?;
    if answer.has_remaining() {
        bail!("{} bytes more than its answer has", answer.remaining());
    }
    Ok(decoded)
}
