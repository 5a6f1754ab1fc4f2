//! Who is answered: a browser at this machine that shows a page of this console, and programs at this machine. A page of somebody
//! else, opened in the same browser, must not read topics.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};

/// Nothing from elsewhere, no script from data, no frame around it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
    base-uri 'none'; form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

const HEADERS: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

/// Where a page of this console says that it is one.
const TOKEN: HeaderName = HeaderName::from_static("x-streamlab-token");

struct Own {
    /// The names under which this console is known, all of this machine.
    hosts: Vec<String>,
    /// Who knows this may change something. Never a cookie: these go to all ports of a machine.
    token: String,
}

/// The routes, behind the guard. `port`: the only one for which they answer. `token`: who sends it may change something.
pub(super) fn guarded(routes: Router, port: u16, token: String) -> Router {
    let hosts = ["localhost", "127.0.0.1", "[::1]"].map(|name| format!("{name}:{port}")).to_vec();
    routes.layer(from_fn_with_state(Arc::new(Own { hosts, token }), guard))
}

async fn guard(State(own): State<Arc<Own>>, request: Request, next: Next) -> Response {
    let mut response = match own.refusal(request.method(), request.headers()) {
        Some((status, why)) => (status, format!("{why}\n")).into_response(),
        None => next.run(request).await,
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

impl Own {
    /// Why a request is not answered, before anything is done for it.
    fn refusal(&self, method: &Method, headers: &HeaderMap) -> Option<(StatusCode, String)> {
        let header = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        // A name that somebody else has given this machine's address to is not ours: DNS rebinding.
        let host = header(header::HOST).unwrap_or_default().to_ascii_lowercase();
        if !self.hosts.contains(&host) {
            let own = format!("this console answers as http://{} only", self.hosts[0]);
            return Some((StatusCode::MISDIRECTED_REQUEST, own));
        }
        let of_somebody_else =
            || Some((StatusCode::FORBIDDEN, "a page of another origin must not ask this console".to_owned()));
        let origin = header(header::ORIGIN);
        if origin.is_some_and(|origin| origin.to_ascii_lowercase() != format!("http://{host}")) {
            return of_somebody_else();
        }
        // Other ports of this machine are `same-site`: they are others all the same.
        let site = header(HeaderName::from_static("sec-fetch-site"));
        let followed_a_link = *method == Method::GET
            && header(HeaderName::from_static("sec-fetch-mode")) == Some("navigate")
            && header(HeaderName::from_static("sec-fetch-dest")) == Some("document");
        if matches!(site, Some("cross-site" | "same-site")) && !followed_a_link {
            return of_somebody_else();
        }
        if !matches!(*method, Method::GET | Method::HEAD) {
            // Only a script of this console has read the token; a form of another page cannot send this kind of content.
            let json = header(header::CONTENT_TYPE).is_some_and(|kind| kind.starts_with("application/json"));
            if header(TOKEN) != Some(self.token.as_str()) || !json {
                let why =
                    "only a page of this console may change something: JSON, with the token of the page";
                return Some((StatusCode::FORBIDDEN, why.to_owned()));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn own() -> Own {
        let hosts = ["localhost:8080", "127.0.0.1:8080", "[::1]:8080"].map(str::to_owned).to_vec();
        Own { hosts, token: "secret".to_owned() }
    }

    #[rstest]
    #[case(&[], Some(403))]
    #[case(&[("x-streamlab-token", "secret")], Some(403))]
    #[case(&[("x-streamlab-token", "secret"), ("content-type", "text/plain")], Some(403))]
    #[case(&[("x-streamlab-token", "guess"), ("content-type", "application/json")], Some(403))]
    #[case(&[("cookie", "x-streamlab-token=secret"), ("content-type", "application/json")], Some(403))]
    #[case(&[("x-streamlab-token", "secret"), ("content-type", "application/json")], None)]
    #[case(&[("x-streamlab-token", "secret"), ("content-type", "application/json"), ("sec-fetch-site", "same-site")], Some(403))]
    fn only_who_has_the_token_changes_something(
        #[case] sent: &[(&'static str, &str)],
        #[case] refused: Option<u16>,
    ) {
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static("localhost:8080"));
        for (name, value) in sent {
            headers.insert(*name, HeaderValue::from_str(value).unwrap());
        }
        let status = own().refusal(&Method::POST, &headers).map(|(status, _)| status.as_u16());
        assert_eq!(status, refused);
    }

    #[rstest]
    #[case::plain(&[("host", "localhost:8080")], None)]
    #[case::address(&[("host", "127.0.0.1:8080")], None)]
    #[case::six(&[("host", "[::1]:8080")], None)]
    #[case::in_capitals(&[("host", "LOCALHOST:8080")], None)]
    #[case::another_port(&[("host", "localhost:8081")], Some(421))]
    #[case::rebound(&[("host", "evil.example:8080")], Some(421))]
    #[case::longer(&[("host", "localhost:8080.evil.example")], Some(421))]
    #[case::by_its_service_name(&[("host", "console:8080")], Some(421))]
    #[case::none(&[], Some(421))]
    #[case::own_page(&[("host", "localhost:8080"), ("origin", "http://localhost:8080"), ("sec-fetch-site", "same-origin")], None)]
    #[case::typed(&[("host", "localhost:8080"), ("sec-fetch-site", "none")], None)]
    #[case::other_origin(&[("host", "localhost:8080"), ("origin", "http://localhost:9090")], Some(403))]
    #[case::no_origin(&[("host", "localhost:8080"), ("origin", "null")], Some(403))]
    #[case::origin_like_its_host(&[("host", "evil.example:8080"), ("origin", "http://evil.example:8080")], Some(421))]
    #[case::another_port_of_this_machine(&[("host", "localhost:8080"), ("sec-fetch-site", "same-site"), ("sec-fetch-mode", "no-cors")], Some(403))]
    #[case::elsewhere(&[("host", "localhost:8080"), ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "cors")], Some(403))]
    #[case::in_a_frame(&[("host", "localhost:8080"), ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")], Some(403))]
    #[case::a_link(&[("host", "localhost:8080"), ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")], None)]
    fn only_own_pages_and_local_programs_are_answered(
        #[case] sent: &[(&'static str, &str)],
        #[case] refused: Option<u16>,
    ) {
        let own = own();
        let mut headers = HeaderMap::new();
        for (name, value) in sent {
            headers.insert(*name, HeaderValue::from_str(value).unwrap());
        }
        let status = own.refusal(&Method::GET, &headers).map(|(status, _)| status.as_u16());
        assert_eq!(status, refused);
    }
}
