//! A front before a real registry: it lets nobody in without a token of its own, writes down who asked for what, and
//! misbehaves as it is told.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, Method, Response, StatusCode};
use futures::StreamExt as _;
use futures::stream;
use streamlab::clients::http;
use streamlab::lock::Digest;

/// Every token begins so: whatever prints one prints this.
pub(crate) const SECRET: &str = "secret-token-of-the-front";
const DIGEST_HEADER: &str = "docker-content-digest";

/// One way to misbehave.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// These bytes, under the header that the right ones have.
    Bytes(&'static str),
    /// These bytes, under a header that fits them.
    BytesAndHeader(&'static str),
    /// The connection ends in the middle of the body.
    CutOff,
    /// Never an answer.
    Hang,
    /// Half of the body, and then nothing more.
    HangInTheMiddle,
    /// A status without a body.
    Status(u16),
}

/// A request as it was answered.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) with_token: bool,
    pub(crate) status: StatusCode,
}

struct Inner {
    /// `host:port` of the front.
    host: String,
    /// `host:port` of the real registry.
    behind: String,
    /// What happens to requests whose path ends so.
    faults: Mutex<Vec<(String, Fault, bool)>>,
    /// What who asks for a token must bring, as basic authentication; nothing where empty.
    login: Mutex<String>,
    seen: Mutex<Vec<Seen>>,
}

pub(crate) struct Front {
    inner: Arc<Inner>,
    serving: tokio::task::JoinHandle<()>,
}

impl Front {
    /// A front before the registry at `behind` (`host:port`), on any free port.
    pub(crate) async fn before(behind: &str) -> Self {
        Self::on(0, behind).await
    }

    /// The same on this port.
    pub(crate) async fn on(port: u16, behind: &str) -> Self {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let inner = Arc::new(Inner {
            host: listener.local_addr().unwrap().to_string(),
            behind: behind.to_owned(),
            faults: Mutex::default(),
            login: Mutex::default(),
            seen: Mutex::default(),
        });
        let router = axum::Router::new().fallback(answer).with_state(inner.clone());
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { inner, serving }
    }

    /// `host:port` of the front.
    pub(crate) fn host(&self) -> &str {
        &self.inner.host
    }

    /// From now on requests whose path ends in `ending` meet `fault`.
    pub(crate) fn fail(&self, ending: impl Into<String>, fault: Fault) {
        self.inner.faults.lock().unwrap().push((ending.into(), fault, false));
    }

    /// The next request whose path ends in `ending` meets `fault`.
    pub(crate) fn fail_once(&self, ending: impl Into<String>, fault: Fault) {
        self.inner.faults.lock().unwrap().push((ending.into(), fault, true));
    }

    /// From now on tokens are for those who bring this basic authentication.
    pub(crate) fn only_for(&self, login: &str) {
        login.clone_into(&mut self.inner.login.lock().unwrap());
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.inner.seen.lock().unwrap().clone()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn answer(State(inner): State<Arc<Inner>>, request: Request) -> Response<Body> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let with_token = inner.lets_in(&request);
    let response = if path == "/token" {
        inner.token(request.uri().query().unwrap_or_default(), request.headers())
    } else if with_token {
        inner.pass_on(&method, &path, request.headers().clone()).await
    } else {
        inner.challenge(&path)
    };
    let status = response.status();
    let lets_in = with_token || path == "/token";
    let fault = inner.fault(&path).filter(|_| lets_in);
    // Who comes without a token meets the challenge first, as in a registry that breaks later.
    let response = match fault {
        Some(fault) => misbehave(fault, response).await,
        _ => response,
    };
    inner.seen.lock().unwrap().push(Seen { method, path, with_token, status });
    response
}

impl Inner {
    /// The token is good for one repository, and for asking which version is spoken.
    fn lets_in(&self, request: &Request) -> bool {
        let given = request.headers().get(AUTHORIZATION).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let path = request.uri().path();
        given.strip_prefix("Bearer ").and_then(|t| t.strip_prefix(SECRET)).is_some_and(|repository| {
            path == "/v2/" || path.starts_with(&format!("/v2/{}/", repository.trim_start_matches('-')))
        })
    }

    fn challenge(&self, path: &str) -> Response<Body> {
        let mut challenge = format!("Bearer realm=\"http://{}/token\",service=\"the front\"", self.host);
        let repository = path.strip_prefix("/v2/").and_then(|p| p.split_once("/manifests/"));
        if let Some((repository, _)) = repository {
            challenge += &format!(",scope=\"repository:{repository}:pull\"");
        }
        let answer = Response::builder().status(StatusCode::UNAUTHORIZED).header(WWW_AUTHENTICATE, challenge);
        answer.body(Body::from(r#"{"errors":[{"code":"UNAUTHORIZED","message":"no token"}]}"#)).unwrap()
    }

    /// What happens to a request for this path.
    fn fault(&self, path: &str) -> Option<Fault> {
        let mut faults = self.faults.lock().unwrap();
        let at = faults.iter().position(|(ending, ..)| path.ends_with(ending.as_str()))?;
        let (_, fault, once) = faults[at].clone();
        if once {
            faults.remove(at);
        }
        Some(fault)
    }

    /// To whoever asks for this service and one repository to pull from, with the right login where one is asked for.
    fn token(&self, query: &str, headers: &HeaderMap) -> Response<Body> {
        let login = self.login.lock().unwrap().clone();
        let given = headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok()).unwrap_or_default();
        if !login.is_empty() && given != format!("Basic {login}") {
            return status(StatusCode::UNAUTHORIZED);
        }
        let query = query.replace("%3A", ":").replace("%2F", "/");
        let asked = |name: &str| query.split('&').find_map(|q| q.strip_prefix(name)?.strip_prefix('='));
        let scope = asked("scope").and_then(|s| s.strip_prefix("repository:")?.strip_suffix(":pull"));
        match (asked("service"), scope) {
            (Some("the+front" | "the%20front"), Some(repository)) => {
                Response::new(Body::from(format!(r#"{{"token":"{SECRET}-{repository}"}}"#)))
            }
            _ => status(StatusCode::FORBIDDEN),
        }
    }

    async fn pass_on(&self, method: &Method, path: &str, mut headers: HeaderMap) -> Response<Body> {
        let url = format!("http://{}{path}", self.behind);
        headers.remove(AUTHORIZATION);
        headers.remove("host");
        let answer = http().request(method.clone(), url).headers(headers).send().await.unwrap();
        let mut response = Response::builder().status(answer.status());
        *response.headers_mut().unwrap() = answer.headers().clone();
        response.body(Body::from(answer.bytes().await.unwrap())).unwrap()
    }
}

async fn misbehave(fault: Fault, right: Response<Body>) -> Response<Body> {
    let (mut head, body) = right.into_parts();
    let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let half = Ok::<_, std::io::Error>(bytes.slice(..bytes.len() / 2));
    let body = match fault {
        Fault::Hang => futures::future::pending::<Body>().await,
        Fault::Status(code) => return status(StatusCode::from_u16(code).unwrap()),
        Fault::Bytes(wrong) => {
            head.headers.insert(CONTENT_LENGTH, wrong.len().into());
            Body::from(wrong)
        }
        Fault::BytesAndHeader(wrong) => {
            head.headers.insert(CONTENT_LENGTH, wrong.len().into());
            head.headers.insert(DIGEST_HEADER, Digest::of(wrong.as_bytes()).as_str().parse().unwrap());
            Body::from(wrong)
        }
        Fault::CutOff => {
            // The server sends what it has while the rest is awaited.
            let end = stream::once(async {
                tokio::task::yield_now().await;
                Err::<Bytes, _>(std::io::Error::other("cut off"))
            });
            Body::from_stream(stream::iter([half]).chain(end))
        }
        Fault::HangInTheMiddle => {
            let never = stream::pending::<Result<Bytes, Infallible>>().map(|b| Ok(b.unwrap()));
            Body::from_stream(stream::iter([half]).chain(never))
        }
    };
    Response::from_parts(head, body)
}

fn status(code: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = code;
    response
}
