//! Who is answered: a browser at this machine that shows a page of the service itself, and programs at this machine. A page of somebody
//! else, opened in the same browser, must neither read nor change anything.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};

/// Where a page says that it is one.
const TOKEN: HeaderName = HeaderName::from_static("x-streamlab-token");

const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// By these it is decided.
const DECIDES: [HeaderName; 4] = [header::HOST, header::ORIGIN, SITE, TOKEN];

/// Who is answered, and what each answer says to browsers.
pub(super) struct Guard {
    /// Names with port under which the service is known; what is asked under another name is not meant for it.
    pub(super) hosts: Vec<String>,
    /// Who knows this may change something; where there is none, everybody who is answered may. Never a cookie: these go to all ports
    /// of a machine.
    pub(super) token: Option<String>,
    /// Headers of each answer.
    pub(super) headers: &'static [(HeaderName, &'static str)],
}

/// What a browser at this machine calls a service that is published at this port.
pub(super) fn local(port: u16) -> Vec<String> {
    ["localhost", "127.0.0.1", "[::1]"].map(|name| format!("{name}:{port}")).to_vec()
}

impl Guard {
    /// The routes, behind this guard.
    pub(super) fn before(self, routes: Router) -> Router {
        routes.layer(from_fn_with_state(Arc::new(self), guard))
    }

    /// Why a request is not answered, before anything is done for it.
    fn refusal(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Option<(StatusCode, String)> {
        // What is there twice or is no text could be read in another way by somebody else.
        for name in DECIDES {
            let mut values = headers.get_all(&name).iter();
            let readable = values.next().is_none_or(|value| value.to_str().is_ok());
            if !readable || values.next().is_some() {
                return Some((StatusCode::BAD_REQUEST, format!("the header {name} is not one text")));
            }
        }
        let header = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        // A name that somebody else has given this machine's address to is not ours: DNS rebinding.
        let host = header(header::HOST).unwrap_or_default().to_ascii_lowercase();
        let named_otherwise =
            uri.authority().is_some_and(|named| !named.as_str().eq_ignore_ascii_case(&host));
        if !self.hosts.contains(&host) || named_otherwise {
            let own = self.hosts.first().map(String::as_str).unwrap_or_default();
            return Some((StatusCode::MISDIRECTED_REQUEST, format!("this is http://{own} only")));
        }
        let of_somebody_else =
            || Some((StatusCode::FORBIDDEN, format!("a page of another origin must not ask http://{host}")));
        let origin = header(header::ORIGIN);
        if origin.is_some_and(|origin| origin.to_ascii_lowercase() != format!("http://{host}")) {
            return of_somebody_else();
        }
        // Other ports of this machine are `same-site`: they are others all the same.
        let site = header(SITE).map(str::to_ascii_lowercase);
        let followed_a_link = *method == Method::GET
            && header(HeaderName::from_static("sec-fetch-mode")) == Some("navigate")
            && header(HeaderName::from_static("sec-fetch-dest")) == Some("document");
        let own = matches!(site.as_deref(), None | Some("same-origin" | "none"));
        if !own && !followed_a_link {
            return of_somebody_else();
        }
        let token = self.token.as_deref().filter(|_| !matches!(*method, Method::GET | Method::HEAD))?;
        // Only a script of the service's own page has read the token; a form of another page cannot send this kind of content.
        let json = header(header::CONTENT_TYPE).is_some_and(|kind| kind.starts_with("application/json"));
        (header(TOKEN) != Some(token) || !json).then(|| {
            let why = "only a page of this console may change something: JSON, with the token of the page";
            (StatusCode::FORBIDDEN, why.to_owned())
        })
    }
}

async fn guard(State(own): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let mut response = match own.refusal(request.method(), request.uri(), request.headers()) {
        Some((status, why)) => (status, format!("{why}\n")).into_response(),
        None => next.run(request).await,
    };
    for (name, value) in own.headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn own() -> Guard {
        Guard { hosts: local(8080), token: Some("secret".to_owned()), headers: &[] }
    }

    #[rstest]
    #[case::program(&[], None)]
    #[case::own_page(&[("origin", "http://localhost:8080"), ("content-type", "application/json")], None)]
    #[case::another(&[("origin", "http://localhost:9090"), ("content-type", "application/json")], Some(403))]
    #[case::a_form(&[("sec-fetch-site", "same-site"), ("content-type", "text/plain")], Some(403))]
    fn without_a_token_who_is_answered_changes_things(
        #[case] sent: &[(&'static str, &str)],
        #[case] refused: Option<u16>,
    ) {
        let open = Guard { token: None, ..own() };
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static("localhost:8080"));
        for (name, value) in sent {
            headers.insert(*name, HeaderValue::from_str(value).unwrap());
        }
        for method in [Method::POST, Method::DELETE] {
            let status =
                open.refusal(&method, &Uri::from_static("/"), &headers).map(|(status, _)| status.as_u16());
            assert_eq!(status, refused, "{method}");
        }
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
        let status =
            own().refusal(&Method::POST, &Uri::from_static("/"), &headers).map(|(status, _)| status.as_u16());
        assert_eq!(status, refused);
    }

    #[rstest]
    #[case::hosts("host", &["localhost:8080", "evil.example"], 400)]
    #[case::origins("origin", &["http://localhost:8080", "http://evil.example"], 400)]
    #[case::no_text("origin", &["http://\u{e9}vil.example"], 400)]
    #[case::a_site_in_other_letters("sec-fetch-site", &["Cross-Site"], 403)]
    #[case::a_site_that_nobody_knows("sec-fetch-site", &["elsewhere"], 403)]
    fn what_could_be_read_in_two_ways_is_refused(
        #[case] name: &'static str,
        #[case] values: &[&str],
        #[case] refused: u16,
    ) {
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static("localhost:8080"));
        headers.remove(name);
        for value in values {
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let status =
            own().refusal(&Method::GET, &Uri::from_static("/"), &headers).map(|(status, _)| status.as_u16());
        assert_eq!(status, Some(refused));
    }

    #[rstest]
    #[case("http://localhost:8080/topics", None)]
    #[case("http://evil.example/topics", Some(421))]
    fn an_address_in_the_request_is_the_hosts(#[case] uri: &'static str, #[case] refused: Option<u16>) {
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static("localhost:8080"));
        let status =
            own().refusal(&Method::GET, &Uri::from_static(uri), &headers).map(|(status, _)| status.as_u16());
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
        let status =
            own.refusal(&Method::GET, &Uri::from_static("/"), &headers).map(|(status, _)| status.as_u16());
        assert_eq!(status, refused);
    }
}
