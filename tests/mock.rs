//! `MockWechat` over real sockets: each rule of the server is a test named after it.
#![cfg(feature = "mock")]

#[path = "mock/accounts.rs"]
mod accounts;
#[path = "mock/own_replies.rs"]
mod own_replies;
#[path = "mock/strict.rs"]
mod strict;

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::channel::Channel;
use http_body_util::{BodyExt, Either, Full};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tower_wechat::mock::{Failure, MockWechat};

const MEDIA: &str = r#"name="media"; filename="a.png""#;
const MIB: u64 = 1024 * 1024;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

type ClientBody = Either<Full<Bytes>, Channel<Bytes, Infallible>>;

/// A client with its own pool, and the calls that the tests make.
#[derive(Clone)]
struct Caller {
    http: Client<HttpConnector, ClientBody>,
    wechat: MockWechat,
}

struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    content_type: String,
    body: Bytes,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn errmsg(&self) -> String {
        self.json()["errmsg"].as_str().unwrap().to_owned()
    }

    fn errcode(&self) -> i64 {
        assert_eq!(self.status, StatusCode::OK);
        self.json()["errcode"].as_i64().unwrap_or(0)
    }

    fn token(&self) -> String {
        self.json()["access_token"].as_str().unwrap().to_owned()
    }

    fn expires_in(&self) -> u64 {
        self.json()["expires_in"].as_u64().unwrap()
    }
}

impl Caller {
    fn new(wechat: &MockWechat) -> Caller {
        Caller {
            http: Client::builder(TokioExecutor::new()).build_http(),
            wechat: wechat.clone(),
        }
    }

    async fn start(
        &self,
        method: Method,
        path: &str,
        body: ClientBody,
    ) -> Result<Response<hyper::body::Incoming>, Error> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.wechat.url()))
            .body(body)
            .unwrap();
        self.http.request(request).await
    }

    async fn send(&self, method: Method, path: &str, body: impl Into<Bytes>) -> Reply {
        let body = Either::Left(Full::new(body.into()));
        read(self.start(method, path, body).await.unwrap()).await
    }

    /// Sends a form with `content` as the part that `disposition` describes.
    async fn upload(&self, path: &str, disposition: &str, content: &[u8]) -> Reply {
        let head = format!("--b0\r\nContent-Disposition: form-data; {disposition}\r\n\r\n");
        let body = [head.as_bytes(), content, b"\r\n--b0--\r\n"].concat();
        let request = Request::post(format!("{}{path}", self.wechat.url()))
            .header("content-type", "multipart/form-data; boundary=b0")
            .body(Either::Left(Full::from(body)));
        read(self.http.request(request.unwrap()).await.unwrap()).await
    }

    async fn get(&self, path: &str) -> Reply {
        self.send(Method::GET, path, "").await
    }

    async fn post(&self, path: &str, body: impl Into<Bytes>) -> Reply {
        self.send(Method::POST, path, body).await
    }

    async fn ask_token(&self) -> Reply {
        let (appid, secret) = (self.wechat.appid(), self.wechat.secret());
        self.get(&format!(
            "/cgi-bin/token?grant_type=client_credential&appid={appid}&secret={secret}"
        ))
        .await
    }

    async fn ask_stable(&self, force: bool) -> Reply {
        let body = json!({
            "grant_type": "client_credential",
            "appid": self.wechat.appid(),
            "secret": self.wechat.secret(),
            "force_refresh": force,
        });
        self.post("/cgi-bin/stable_token", body.to_string()).await
    }

    async fn ask_corp(&self) -> Reply {
        let (corpid, secret) = (self.wechat.appid(), self.wechat.secret());
        self.get(&format!(
            "/cgi-bin/gettoken?corpid={corpid}&corpsecret={secret}"
        ))
        .await
    }

    async fn token(&self) -> String {
        self.ask_token().await.token()
    }

    /// The errcode that an API call with this token gets.
    async fn call(&self, token: &str) -> i64 {
        self.get(&format!("/cgi-bin/user/get?access_token={token}"))
            .await
            .errcode()
    }
}

async fn read(response: Response<hyper::body::Incoming>) -> Reply {
    let (head, body) = response.into_parts();
    Reply {
        status: head.status,
        content_type: head
            .headers
            .get("content-type")
            .map_or_else(String::new, |value| value.to_str().unwrap().to_owned()),
        headers: head.headers,
        body: body.collect().await.unwrap().to_bytes(),
    }
}

async fn started() -> (MockWechat, Caller) {
    let wechat = MockWechat::start().await;
    let caller = Caller::new(&wechat);
    (wechat, caller)
}

async fn started_with_token() -> (MockWechat, Caller, String) {
    let (wechat, caller) = started().await;
    let token = caller.token().await;
    (wechat, caller, token)
}

/// Waits for what another task brings about, without a deadline of its own.
async fn until(mut holds: impl FnMut() -> bool) {
    while !holds() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

// cgi-bin/token

#[tokio::test]
async fn each_token_request_makes_a_new_token() {
    let (wechat, caller) = started().await;
    assert_eq!(wechat.current_token(), None);
    let first = caller.ask_token().await;
    assert_eq!(first.expires_in(), 7200);
    assert_eq!(first.token().len(), 136);
    assert!(
        first
            .token()
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    );
    let second = caller.token().await;
    assert_ne!(first.token(), second);
    assert_eq!(wechat.current_token(), Some(second));
}

#[tokio::test]
async fn token_request_faults_have_their_codes() {
    let (_wechat, caller) = started().await;
    let (id, secret) = ("wx0123456789abcdef", "0123456789abcdef0123456789abcdef");
    let grant = "grant_type=client_credential";
    for (query, errcode) in [
        (String::new(), 41002),
        (format!("?{grant}&secret={secret}"), 41002),
        (format!("?{grant}&appid=&secret={secret}"), 41002),
        (format!("?{grant}&appid={id}"), 41004),
        (
            format!("?grant_type=password&appid={id}&secret={secret}"),
            40002,
        ),
        (format!("?appid={id}&secret={secret}"), 40002),
        (format!("?{grant}&appid=wx1&secret={secret}"), 40013),
        (format!("?{grant}&appid={id}&secret=wrong"), 40125),
        (format!("?{grant}&appid={id}&secret={secret}"), 0),
    ] {
        let reply = caller.get(&format!("/cgi-bin/token{query}")).await;
        assert_eq!(reply.errcode(), errcode, "{query}");
    }
    let reply = caller.post("/cgi-bin/token", "").await;
    assert_eq!(reply.errcode(), 43001);
}

#[tokio::test]
async fn errors_read_as_wechats_do() {
    let (_wechat, caller) = started().await;
    let reply = caller.get("/cgi-bin/user/get?access_token=x").await;
    let said = reply.errmsg();
    let (said, rid) = said.split_once(" rid: ").unwrap();
    assert_eq!(
        said,
        "invalid credential, access_token is invalid or not latest, could get access_token by \
         getStableAccessToken, more details at https://mmbizurl.cn/s/JtxxFh33r"
    );
    let parts: Vec<_> = rid
        .split('-')
        .map(|part| u32::from_str_radix(part, 16))
        .collect();
    assert!(parts.len() == 3 && parts.iter().all(Result::is_ok), "{rid}");
}

#[tokio::test]
async fn parameters_are_percent_decoded() {
    let wechat = MockWechat::builder()
        .account("wx 1", "a+b&c=ü")
        .start()
        .await;
    let caller = Caller::new(&wechat);
    let reply = caller
        .get("/cgi-bin/token?grant%5Ftype=client%5fcredential&appid=wx+1&secret=a%2Bb%26c%3D%C3%BC")
        .await;
    let token = reply.token();
    let encoded = token
        .bytes()
        .map(|b| format!("%{b:02X}"))
        .collect::<String>();
    assert_eq!(caller.call(&encoded).await, 0);
    assert_eq!(wechat.requests()[1].access_token(), Some(&*token));
}

#[tokio::test(start_paused = true)]
async fn the_former_token_stays_good_for_the_grace() {
    let (_wechat, caller, former) = started_with_token().await;
    let newer = caller.token().await;
    assert_eq!(caller.call(&former).await, 0);
    tokio::time::advance(Duration::from_secs(299)).await;
    assert_eq!(caller.call(&former).await, 0);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(caller.call(&former).await, 40001);
    assert_eq!(caller.call(&newer).await, 0);
}

#[tokio::test]
async fn the_grace_can_be_none() {
    let wechat = MockWechat::builder().grace(Duration::ZERO).start().await;
    let caller = Caller::new(&wechat);
    let former = caller.token().await;
    assert_eq!(caller.call(&former).await, 0);
    let newer = caller.token().await;
    assert_eq!(caller.call(&former).await, 40001);
    assert_eq!(caller.call(&newer).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_token_expires() {
    let (wechat, caller, token) = started_with_token().await;
    tokio::time::advance(Duration::from_secs(7199)).await;
    assert_eq!(caller.call(&token).await, 0);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(caller.call(&token).await, 42001);
    assert_eq!(wechat.current_token(), Some(token));
}

#[tokio::test]
async fn absurd_lifetimes_do_no_harm() {
    let wechat = MockWechat::builder()
        .expires_in(Duration::MAX)
        .grace(Duration::MAX)
        .start()
        .await;
    let caller = Caller::new(&wechat);
    let token = caller.token().await;
    caller.token().await;
    assert_eq!(caller.call(&token).await, 0);
    assert_eq!(caller.ask_stable(true).await.errcode(), 0);

    let wechat = MockWechat::builder()
        .expires_in(Duration::ZERO)
        .start()
        .await;
    let caller = Caller::new(&wechat);
    assert_eq!(caller.ask_token().await.expires_in(), 0);
}

#[tokio::test]
async fn tokens_may_be_longer() {
    let wechat = MockWechat::builder().token_len(512).start().await;
    let caller = Caller::new(&wechat);
    let token = caller.token().await;
    assert_eq!(token.len(), 512);
    assert_eq!(caller.call(&token).await, 0);
}

#[tokio::test(start_paused = true)]
async fn the_daily_quota_ends_and_begins_again() {
    let wechat = MockWechat::builder().daily_quota(2).start().await;
    let caller = Caller::new(&wechat);
    caller.token().await;
    caller.token().await;
    let refused = caller.ask_token().await;
    assert_eq!(refused.errcode(), 45009);
    let said = refused.json()["errmsg"].to_string();
    assert!(
        said.contains("reach max api daily quota limit rid: "),
        "{said}"
    );
    wechat.set_quota(3);
    assert_eq!(caller.ask_token().await.errcode(), 0);
    assert_eq!(caller.ask_token().await.errcode(), 45009);
    assert_eq!(caller.ask_stable(false).await.errcode(), 0);
    tokio::time::advance(DAY).await;
    assert_eq!(caller.ask_token().await.errcode(), 0);
}

#[tokio::test]
async fn a_denied_address_is_told_so() {
    let (wechat, caller) = started().await;
    wechat.deny_address(true);
    for reply in [caller.ask_token().await, caller.ask_stable(false).await] {
        assert_eq!(reply.errcode(), 40164);
        let said = reply.errmsg();
        assert!(
            said.starts_with("invalid ip 127.0.0.1 ipv6 ::ffff:127.0.0.1, not in whitelist rid: ")
        );
    }
    let reply = caller.ask_corp().await;
    assert_eq!(reply.errcode(), 60020);
    let said = reply.errmsg();
    assert!(
        said.contains(", from ip: 127.0.0.1, more info at "),
        "{said}"
    );
    wechat.deny_address(false);
    assert_eq!(caller.ask_token().await.errcode(), 0);
}

// cgi-bin/stable_token

#[tokio::test]
async fn stable_token_faults_have_their_codes() {
    let (_wechat, caller) = started().await;
    let (id, secret) = ("wx0123456789abcdef", "0123456789abcdef0123456789abcdef");
    let grant = "client_credential";
    for (body, errcode) in [
        ("{".to_owned(), 47001),
        (String::new(), 44002),
        ("[]".to_owned(), 41002),
        ("7".to_owned(), 41002),
        (
            json!({"grant_type": grant, "appid": 5, "secret": secret}).to_string(),
            41002,
        ),
        (json!({"grant_type": grant, "appid": id}).to_string(), 41004),
        (
            json!({"grant_type": "x", "appid": id, "secret": secret}).to_string(),
            40002,
        ),
        (
            json!({"grant_type": grant, "appid": "x", "secret": secret}).to_string(),
            40013,
        ),
        (
            json!({"grant_type": grant, "appid": id, "secret": "x"}).to_string(),
            40125,
        ),
        (
            json!({"grant_type": grant, "appid": id, "secret": secret}).to_string(),
            0,
        ),
        (" ".repeat(MIB as usize + 1), 45002),
    ] {
        let reply = caller.post("/cgi-bin/stable_token", body.clone()).await;
        assert_eq!(reply.errcode(), errcode, "{}", &body[..body.len().min(99)]);
    }
    assert_eq!(caller.get("/cgi-bin/stable_token").await.errcode(), 43002);
}

#[tokio::test(start_paused = true)]
async fn the_stable_token_is_the_same_until_five_minutes_before_its_end() {
    let (_wechat, caller) = started().await;
    let first = caller.ask_stable(false).await;
    assert_eq!(first.expires_in(), 7200);
    tokio::time::advance(Duration::from_secs(6899)).await;
    let again = caller.ask_stable(false).await;
    assert_eq!((again.token(), again.expires_in()), (first.token(), 301));
    tokio::time::advance(Duration::from_secs(1)).await;
    let next = caller.ask_stable(false).await;
    assert_ne!(next.token(), first.token());
    assert_eq!(next.expires_in(), 7200);
    assert_eq!(caller.call(&first.token()).await, 0);
    tokio::time::advance(Duration::from_secs(300)).await;
    assert_eq!(caller.call(&first.token()).await, 42001);
    assert_eq!(caller.call(&next.token()).await, 0);
}

#[tokio::test]
async fn a_short_lived_stable_token_is_repeated_too() {
    let wechat = MockWechat::builder()
        .expires_in(Duration::from_secs(100))
        .start()
        .await;
    let caller = Caller::new(&wechat);
    let first = caller.ask_stable(false).await.token();
    assert_eq!(caller.ask_stable(false).await.token(), first);
}

#[tokio::test]
async fn stable_and_plain_tokens_are_independent() {
    let wechat = MockWechat::builder().grace(Duration::ZERO).start().await;
    let caller = Caller::new(&wechat);
    let stable = caller.ask_stable(false).await.token();
    let plain = caller.token().await;
    assert_ne!(stable, plain);
    assert_eq!(caller.call(&stable).await, 0);
    caller.ask_stable(true).await;
    assert_eq!(caller.call(&plain).await, 0);
    assert_eq!(caller.call(&stable).await, 40001);
    assert_eq!(wechat.current_token(), Some(plain));
}

#[tokio::test(start_paused = true)]
async fn a_forced_stable_token_voids_the_former_at_once_and_comes_once_in_thirty_seconds() {
    let (_wechat, caller) = started().await;
    let first = caller.ask_stable(false).await.token();
    let second = caller.ask_stable(true).await.token();
    assert_ne!(first, second);
    assert_eq!(caller.call(&first).await, 40001);
    tokio::time::advance(Duration::from_secs(29)).await;
    assert_eq!(caller.ask_stable(true).await.token(), second);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_ne!(caller.ask_stable(true).await.token(), second);
}

#[tokio::test(start_paused = true)]
async fn the_twenty_first_force_of_a_day_is_ignored() {
    let (_wechat, caller) = started().await;
    let mut last = caller.ask_stable(false).await.token();
    for _ in 0..20 {
        tokio::time::advance(Duration::from_secs(30)).await;
        let token = caller.ask_stable(true).await.token();
        assert_ne!(token, last);
        last = token;
    }
    tokio::time::advance(Duration::from_secs(30)).await;
    assert_eq!(caller.ask_stable(true).await.token(), last);
    assert_eq!(caller.call(&last).await, 0);
    tokio::time::advance(DAY).await;
    let plain = caller.ask_stable(false).await.token();
    assert_ne!(caller.ask_stable(true).await.token(), plain);
}

#[tokio::test]
async fn a_revoked_stable_token_is_handed_out_until_forced() {
    let (wechat, caller) = started().await;
    let dead = caller.ask_stable(false).await.token();
    wechat.revoke();
    assert_eq!(caller.ask_stable(false).await.token(), dead);
    assert_eq!(caller.call(&dead).await, 40001);
    let alive = caller.ask_stable(true).await.token();
    assert_eq!(caller.call(&alive).await, 0);
    assert_eq!(caller.ask_stable(false).await.token(), alive);
}

#[tokio::test]
async fn an_expired_stable_token_is_replaced_unforced() {
    let (wechat, caller) = started().await;
    let dead = caller.ask_stable(false).await.token();
    wechat.expire();
    let alive = caller.ask_stable(false).await.token();
    assert_eq!(caller.call(&dead).await, 42001);
    assert_eq!(caller.call(&alive).await, 0);
}

// cgi-bin/gettoken

#[tokio::test]
async fn a_corp_token_is_the_same_until_revoked_or_expired() {
    let (wechat, caller) = started().await;
    let reply = caller.ask_corp().await;
    assert_eq!(reply.json()["errcode"], 0);
    assert_eq!(reply.json()["errmsg"], "ok");
    assert_eq!(reply.expires_in(), 7200);
    let first = reply.token();
    assert_eq!(caller.ask_corp().await.token(), first);
    assert_eq!(caller.call(&first).await, 0);

    wechat.revoke();
    assert_eq!(caller.call(&first).await, 40014);
    let second = caller.ask_corp().await.token();
    assert_ne!(second, first);

    wechat.expire();
    assert_eq!(caller.call(&second).await, 42001);
    let third = caller.ask_corp().await.token();
    assert_eq!(caller.call(&third).await, 0);
    assert_eq!(wechat.token_requests().issued, 3);
}

#[tokio::test]
async fn corp_faults_have_their_codes() {
    let (_wechat, caller) = started().await;
    let (id, secret) = ("wx0123456789abcdef", "0123456789abcdef0123456789abcdef");
    for (query, errcode) in [
        (format!("corpsecret={secret}"), 41002),
        (format!("corpid={id}"), 41004),
        (format!("corpid=x&corpsecret={secret}"), 40013),
        (format!("corpid={id}&corpsecret=x"), 40001),
    ] {
        let reply = caller.get(&format!("/cgi-bin/gettoken?{query}")).await;
        assert_eq!(reply.errcode(), errcode, "{query}");
    }
}

// API calls and their token

#[tokio::test]
async fn an_api_call_needs_a_good_token() {
    let (_wechat, caller, token) = started_with_token().await;
    for path in [
        "/cgi-bin/user/get",
        "/wxa/checksession",
        "/wxaapi/newtmpl/gettemplate",
        "/customservice/kfsession/getsession",
    ] {
        let none = caller.get(path).await;
        assert_eq!(none.errcode(), 41001);
        let said = none.json()["errmsg"].as_str().unwrap().to_owned();
        assert!(said.starts_with("access_token missing"));
        for (query, errcode) in [
            ("access_token=".to_owned(), 41001),
            ("access_token".to_owned(), 41001),
            ("access_token=nonsense".to_owned(), 40001),
            (format!("a=1&access_token={token}&b=2"), 0),
            (format!("access%5Ftoken={token}"), 0),
        ] {
            let reply = caller.get(&format!("{path}?{query}")).await;
            assert_eq!(reply.errcode(), errcode, "{path}?{query}");
        }
    }
}

#[tokio::test]
async fn revoke_voids_every_token_at_once() {
    let (wechat, caller, former) = started_with_token().await;
    let newest = caller.token().await;
    wechat.revoke();
    assert_eq!(caller.call(&former).await, 40001);
    assert_eq!(caller.call(&newest).await, 40001);
    assert_eq!(wechat.current_token(), None);
    let token = caller.token().await;
    assert_eq!(caller.call(&token).await, 0);
    assert_eq!(wechat.current_token(), Some(token));
}

#[tokio::test]
async fn expire_makes_every_token_expired() {
    let (wechat, caller, former) = started_with_token().await;
    let newest = caller.token().await;
    wechat.expire();
    assert_eq!(caller.call(&former).await, 42001);
    assert_eq!(caller.call(&newest).await, 42001);
    assert_eq!(caller.call(&caller.token().await).await, 0);
}

#[tokio::test]
async fn every_token_can_be_rejected() {
    let (wechat, caller, token) = started_with_token().await;
    wechat.reject_every_token(Some(40014));
    assert_eq!(caller.call(&token).await, 40014);
    assert_eq!(caller.call("nonsense").await, 40014);
    assert_eq!(caller.get("/cgi-bin/user/get").await.errcode(), 41001);
    wechat.reject_every_token(None);
    assert_eq!(caller.call(&token).await, 0);
}

// Endpoints

#[tokio::test]
async fn the_menu_is_kept() {
    let (_wechat, caller, token) = started_with_token().await;
    let at = |action: &str| format!("/cgi-bin/menu/{action}?access_token={token}");
    assert_eq!(caller.get(&at("get")).await.errcode(), 46003);

    let menu = json!({"button": [{"type": "click", "name": "今日歌曲", "key": "V1"}]});
    assert_eq!(
        caller.post(&at("create"), menu.to_string()).await.errcode(),
        0
    );
    assert_eq!(caller.get(&at("get")).await.json(), json!({"menu": menu}));

    assert_eq!(caller.get(&at("delete")).await.errcode(), 0);
    assert_eq!(caller.get(&at("get")).await.errcode(), 46003);
}

#[tokio::test]
async fn a_bad_menu_is_refused() {
    let (_wechat, caller, token) = started_with_token().await;
    let path = format!("/cgi-bin/menu/create?access_token={token}");
    let below = |count| json!({"name": "x", "sub_button": vec![json!({}); count]});
    for (body, errcode) in [
        ("button".to_owned(), 47001),
        ("{}".to_owned(), 40016),
        (json!({"button": []}).to_string(), 40016),
        (json!({"button": [{}, {}, {}, {}]}).to_string(), 40016),
        (json!({"button": [below(1), below(6)]}).to_string(), 40023),
        (json!({"button": [{}, {}, below(5)]}).to_string(), 0),
    ] {
        let reply = caller.post(&path, body.clone()).await;
        assert_eq!(reply.errcode(), errcode, "{body}");
    }
    assert_eq!(caller.get(&path).await.errcode(), 43002);
}

#[tokio::test]
async fn accepted_messages_are_kept_one_by_one() {
    let (wechat, caller, token) = started_with_token().await;
    let path = format!("/cgi-bin/message/custom/send?access_token={token}");
    let message = json!({"touser": "OPENID1", "msgtype": "text", "text": {"content": "hi"}});
    for (body, errcode) in [
        (message.to_string(), 0),
        (json!({"msgtype": "text"}).to_string(), 40003),
        (json!({"touser": "OPENID1"}).to_string(), 40008),
        ("hi".to_owned(), 47001),
        (message.to_string(), 0),
    ] {
        assert_eq!(caller.post(&path, body).await.errcode(), errcode);
    }
    let refused = "/cgi-bin/message/custom/send?access_token=x";
    assert_eq!(
        caller.post(refused, message.to_string()).await.errcode(),
        40001
    );
    assert_eq!(wechat.messages(), [message.clone(), message]);
}

#[tokio::test]
async fn an_upload_is_hashed_and_named() {
    let (wechat, caller, token) = started_with_token().await;
    let path = format!("/cgi-bin/media/upload?type=image&access_token={token}");
    let file = vec![7; 3_000_000];
    let reply = caller.upload(&path, MEDIA, &file).await.json();
    assert_eq!(reply["type"], "image");
    assert!(reply["media_id"].as_str().is_some_and(|id| !id.is_empty()));
    assert!(reply["created_at"].is_u64());
    assert!((3_000_000..3_000_200).contains(&wechat.requests()[1].body_len()));
    assert!(wechat.requests()[1].body_sha256().is_some());

    let path = format!("/cgi-bin/media/upload?access_token={token}");
    assert_eq!(caller.upload(&path, MEDIA, b"x").await.errcode(), 40004);
}

#[tokio::test]
async fn a_medium_is_streamed_in_any_size() {
    let (wechat, caller, token) = started_with_token().await;
    let path = format!("/cgi-bin/media/get?media_id=M&access_token={token}");
    let reply = caller.get(&path).await;
    assert_eq!(reply.content_type, "image/jpeg");
    assert_eq!(reply.body.len() as u64, MIB);
    assert_eq!(reply.body[..4], [0xff, 0xd8, 0xff, 0xe0]);
    let mut bytes = reply.body.iter().enumerate().skip(4);
    assert!(bytes.all(|(i, byte)| usize::from(*byte) == i % 251));
    for size in [0, 3, 16 * 1024 + 1] {
        let reply = caller.get(&format!("{path}&size={size}")).await;
        assert_eq!(reply.body.len(), size);
    }
    assert_eq!(wechat.requests()[1].errcode(), None);
    let reply = caller
        .get("/cgi-bin/media/get?media_id=M&access_token=x")
        .await;
    assert_eq!(
        (reply.errcode(), &*reply.content_type),
        (40001, "text/plain")
    );
}

#[tokio::test]
async fn a_medium_of_a_gigabyte_is_made_while_it_is_read() {
    let (_wechat, caller, token) = started_with_token().await;
    let path = format!(
        "/cgi-bin/media/get?size={}&access_token={token}",
        1024 * MIB
    );
    let body = Either::Left(Full::default());
    let mut reply = caller
        .start(Method::GET, &path, body)
        .await
        .unwrap()
        .into_body();
    assert_eq!(reply.size_hint().exact(), Some(1024 * MIB));
    let mut read = 0;
    while read < 8 * MIB {
        let frame = reply.frame().await.unwrap().unwrap();
        read += frame.into_data().unwrap().len() as u64;
    }
}

#[tokio::test]
async fn two_users_follow() {
    let (_wechat, caller, token) = started_with_token().await;
    let reply = caller
        .get(&format!("/cgi-bin/user/get?access_token={token}"))
        .await;
    assert_eq!(reply.content_type, "text/plain");
    assert_eq!(
        reply.json(),
        json!({"total": 2, "count": 2, "data": {"openid": ["OPENID1", "OPENID2"]}, "next_openid": "OPENID2"})
    );
}

#[tokio::test]
async fn a_qr_code_is_a_picture_and_so_its_errors_are_called() {
    let (wechat, caller, token) = started_with_token().await;
    let at = |token: &str| format!("/wxa/getwxacodeunlimit?access_token={token}");
    let picture = caller.post(&at(&token), "{}").await;
    assert_eq!(picture.content_type, "image/jpeg");
    assert!(picture.body.starts_with(b"\x89PNG\r\n\x1a\n"));
    let error = caller.post(&at("x"), "{}").await;
    assert_eq!(
        (error.errcode(), &*error.content_type),
        (40001, "image/jpeg")
    );
    let codes: Vec<_> = wechat.requests()[1..].iter().map(|r| r.errcode()).collect();
    assert_eq!(codes, [None, Some(40001)]);
}

#[tokio::test]
async fn other_api_calls_are_well() {
    let (_wechat, caller, token) = started_with_token().await;
    for path in [
        "/cgi-bin/tags/create",
        "/wxa/msg_sec_check",
        "/datacube/getusersummary",
        "/customservice/kfsession/create",
    ] {
        let reply = caller
            .post(&format!("{path}?access_token={token}"), "{}")
            .await;
        assert_eq!(reply.json(), json!({"errcode": 0, "errmsg": "ok"}));
    }
}

#[tokio::test]
async fn sns_wants_the_users_own_token() {
    let (_wechat, caller, token) = started_with_token().await;
    let path = "/sns/userinfo?openid=OPENID1&access_token=";
    assert_eq!(caller.get(&format!("{path}user-token")).await.errcode(), 0);
    assert_eq!(caller.get(&format!("{path}{token}")).await.errcode(), 40001);
    assert_eq!(caller.get("/sns/userinfo").await.errcode(), 40001);
}

#[tokio::test]
async fn anything_else_is_not_found() {
    let (wechat, caller) = started().await;
    for path in [
        "/",
        "/cgi-bin",
        "/cgi-binary/x",
        "/favicon.ico?access_token=x",
    ] {
        let reply = caller.get(path).await;
        assert_eq!(reply.status, StatusCode::NOT_FOUND);
        assert_eq!(reply.content_type, "text/html");
        assert!(reply.body.starts_with(b"<html>"));
    }
    assert_eq!(wechat.requests()[0].errcode(), None);
}

// Failures and delays

#[tokio::test]
async fn failures_wait_for_a_request_of_their_kind_in_order() {
    let (wechat, caller, token) = started_with_token().await;
    wechat.fail_next(Failure::Api(-1));
    wechat.fail_next(Failure::Token(45011));
    wechat.fail_next(Failure::Api(45009));
    wechat.fail_next(Failure::Token(-1));
    assert_eq!(caller.ask_stable(false).await.errcode(), 45011);
    assert_eq!(caller.ask_token().await.errcode(), -1);
    assert_eq!(caller.ask_token().await.errcode(), 0);
    assert_eq!(caller.call(&token).await, -1);
    assert_eq!(caller.call("nonsense").await, 45009);
    assert_eq!(caller.call(&token).await, 0);
}

#[tokio::test]
async fn a_failure_can_be_a_status_with_html() {
    let (wechat, caller, token) = started_with_token().await;
    wechat.fail_next(Failure::TokenStatus(502));
    wechat.fail_next(Failure::ApiStatus(503));
    wechat.fail_next(Failure::ApiStatus(7));
    let reply = caller.ask_token().await;
    assert_eq!(reply.status, StatusCode::BAD_GATEWAY);
    assert_eq!(reply.content_type, "text/html");
    let path = format!("/cgi-bin/x?access_token={token}");
    assert_eq!(
        caller.get(&path).await.status,
        StatusCode::SERVICE_UNAVAILABLE
    );
    assert_eq!(
        caller.get(&path).await.status,
        StatusCode::INTERNAL_SERVER_ERROR
    );
    assert_eq!(caller.get(&path).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_failure_can_be_any_bytes() {
    let (wechat, caller, token) = started_with_token().await;
    wechat.fail_next(Failure::TokenBody(Bytes::from_static(
        b"{\"access_token\":",
    )));
    wechat.fail_next(Failure::ApiBody(Bytes::from_static(
        b"\n{ \"errcode\": 42001 }",
    )));
    assert_eq!(caller.ask_token().await.body, "{\"access_token\":");
    let path = format!("/cgi-bin/x?access_token={token}");
    assert_eq!(caller.get(&path).await.body, "\n{ \"errcode\": 42001 }");
    let codes: Vec<_> = wechat.requests()[1..].iter().map(|r| r.errcode()).collect();
    assert_eq!(codes, [None, Some(42001)]);
}

#[tokio::test]
async fn a_failure_can_be_a_closed_connection() {
    let (wechat, caller, token) = started_with_token().await;
    for (failure, path) in [
        (Failure::TokenDisconnect, "/cgi-bin/token".to_owned()),
        (
            Failure::ApiDisconnect,
            format!("/cgi-bin/x?access_token={token}"),
        ),
    ] {
        wechat.fail_next(failure);
        let body = Either::Left(Full::default());
        assert!(caller.start(Method::GET, &path, body).await.is_err());
    }
    let counts = wechat.token_requests();
    assert_eq!((counts.started, counts.finished, counts.issued), (2, 1, 1));
    assert_eq!(wechat.requests()[2].errcode(), None);
    assert_eq!(caller.call(&token).await, 0);
}

#[tokio::test]
async fn a_failed_call_is_not_acted_on() {
    let (wechat, caller, token) = started_with_token().await;
    wechat.fail_next(Failure::Api(-1));
    let path = format!("/cgi-bin/message/custom/send?access_token={token}");
    let message = json!({"touser": "OPENID1", "msgtype": "text"}).to_string();
    assert_eq!(caller.post(&path, message).await.errcode(), -1);
    assert!(wechat.messages().is_empty());
    assert!(wechat.requests()[1].body_sha256().is_some());
}

#[tokio::test]
async fn a_client_that_goes_away_is_started_and_not_finished() {
    let wechat = MockWechat::builder()
        .token_delay(Duration::from_secs(3600))
        .start()
        .await;
    let caller = Caller::new(&wechat);
    let asking = tokio::spawn({
        let caller = caller.clone();
        async move { caller.ask_token().await.errcode() }
    });
    until(|| wechat.token_requests().started == 1).await;
    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled());

    // By the time these have come back the server has seen the other connection close.
    for _ in 0..10 {
        caller.call("x").await;
    }
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(3600)).await;
    caller.call("x").await;
    let counts = wechat.token_requests();
    assert_eq!((counts.started, counts.finished, counts.issued), (1, 0, 0));
}

#[tokio::test]
async fn a_delayed_token_request_is_answered_although_others_are_quick() {
    let (wechat, caller) = started().await;
    wechat.set_token_delay(Duration::from_millis(50));
    let slow = tokio::spawn({
        let caller = caller.clone();
        async move { caller.token().await }
    });
    until(|| wechat.token_requests().started == 1).await;
    wechat.set_token_delay(Duration::ZERO);
    let quick = caller.token().await;
    let slow = slow.await.unwrap();
    assert_eq!(caller.call(&slow).await, 0);
    assert_eq!(caller.call(&quick).await, 0);
}

#[tokio::test]
async fn a_slow_call_is_acted_on_before_it_is_answered() {
    let (wechat, caller, token) = started_with_token().await;
    wechat.set_api_delay(Duration::from_secs(3600)..=Duration::from_secs(7200));
    let sending = tokio::spawn(async move {
        let path = format!("/cgi-bin/message/custom/send?access_token={token}");
        let message = json!({"touser": "OPENID1", "msgtype": "text"}).to_string();
        caller.post(&path, message).await.errcode()
    });
    until(|| wechat.messages().len() == 1).await;
    sending.abort();
    assert_eq!(wechat.requests()[1].errcode(), None);
}

#[tokio::test]
async fn api_delays_of_any_range_do_no_harm() {
    let (wechat, caller, token) = started_with_token().await;
    let ms = Duration::from_millis;
    for range in [ms(0)..=ms(3), ms(1)..=ms(1), ms(2)..=ms(1), ms(0)..=ms(0)] {
        wechat.set_api_delay(range);
        assert_eq!(caller.call(&token).await, 0);
    }
}

// Bodies

#[tokio::test]
async fn a_body_is_read_to_its_end_before_a_bad_token_is_told() {
    let (wechat, caller) = started().await;
    wechat.accept_chunked(true);
    let (mut sender, body) = Channel::new(1);
    let path = "/cgi-bin/media/upload?type=image&access_token=x";
    let replying = tokio::spawn(async move {
        let reply = caller.start(Method::POST, path, Either::Right(body)).await;
        read(reply.unwrap()).await.errcode()
    });
    sender
        .send(Frame::data(Bytes::from_static(b"ab")))
        .await
        .unwrap();
    until(|| wechat.requests().iter().any(|r| r.body_len() == 2)).await;
    assert_eq!(wechat.requests()[0].body_sha256(), None);
    assert_eq!(wechat.requests()[0].errcode(), None);
    sender
        .send(Frame::data(Bytes::from_static(b"c")))
        .await
        .unwrap();
    drop(sender);
    assert_eq!(replying.await.unwrap(), 40001);
    let request = &wechat.requests()[0];
    assert_eq!(request.body_len(), 3);
    // SHA-256 of "abc", from FIPS 180.
    assert_eq!(
        request.body_sha256(),
        Some("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    );
}

#[tokio::test]
async fn answer_early_does_not_wait_for_the_body() {
    let (wechat, caller, token) = started_with_token().await;
    wechat.accept_chunked(true);
    wechat.answer_early(true);
    let (mut sender, body) = Channel::new(1);
    let path = "/cgi-bin/media/upload?type=image&access_token=x";
    let reply = caller.start(Method::POST, path, Either::Right(body)).await;
    assert_eq!(read(reply.unwrap()).await.errcode(), 40001);
    let request = &wechat.requests()[1];
    assert_eq!((request.body_len(), request.body_sha256()), (0, None));
    assert_eq!(request.errcode(), Some(40001));
    let _ = sender.send(Frame::data(Bytes::from_static(b"ab"))).await;
    drop(sender);

    let large = vec![1; 8 * MIB as usize];
    assert_eq!(caller.post(path, large.clone()).await.errcode(), 40001);
    let path = format!("/cgi-bin/media/upload?type=image&access_token={token}");
    assert_eq!(caller.upload(&path, MEDIA, &large).await.errcode(), 0);
    assert!(wechat.requests()[3].body_len() > 8 * MIB);
}

#[tokio::test]
async fn a_json_body_over_the_limit_is_hashed_and_refused() {
    let (wechat, caller, token) = started_with_token().await;
    let path = format!("/cgi-bin/menu/create?access_token={token}");
    assert_eq!(
        caller
            .post(&path, vec![b' '; MIB as usize + 1])
            .await
            .errcode(),
        45002
    );
    assert_eq!(wechat.requests()[1].body_len(), MIB + 1);
    assert!(wechat.requests()[1].body_sha256().is_some());
}

// The record

#[tokio::test]
async fn requests_are_recorded_in_order_of_arrival() {
    let (wechat, caller, token) = started_with_token().await;
    let path = format!("/cgi-bin/user/get?next_openid=%41&access_token={token}");
    caller.send(Method::PUT, &path, "{}").await;
    let [first, second] = &wechat.requests()[..] else {
        panic!("two requests");
    };
    assert!(first.is_token_request());
    assert_eq!(first.method(), Method::GET);
    assert_eq!(first.path(), "/cgi-bin/token");
    assert_eq!(first.access_token(), None);
    assert_eq!(first.errcode(), Some(0));
    assert!(!second.is_token_request());
    assert_eq!(second.method(), Method::PUT);
    assert_eq!(second.path(), "/cgi-bin/user/get");
    let query = format!("next_openid=%41&access_token={token}");
    assert_eq!(second.query(), Some(&*query));
    assert_eq!(second.access_token(), Some(&*token));
    assert_eq!(second.headers()["content-length"], "2");
    assert_eq!(second.body_len(), 2);
}

#[tokio::test]
async fn token_requests_are_counted() {
    let (wechat, caller) = started().await;
    caller.ask_token().await;
    caller.ask_stable(false).await;
    caller.ask_stable(false).await;
    caller.ask_corp().await;
    caller.get("/cgi-bin/token").await;
    caller.call("x").await;
    let counts = wechat.token_requests();
    assert_eq!((counts.started, counts.finished, counts.issued), (5, 5, 3));
}

#[tokio::test]
async fn clear_forgets_requests_and_messages_and_keeps_tokens() {
    let (wechat, caller, token) = started_with_token().await;
    let path = format!("/cgi-bin/message/custom/send?access_token={token}");
    let message = json!({"touser": "OPENID1", "msgtype": "text"}).to_string();
    caller.post(&path, message).await;
    wechat.clear();
    assert!(wechat.requests().is_empty());
    assert!(wechat.messages().is_empty());
    assert_eq!(wechat.token_requests().started, 0);
    assert_eq!(caller.call(&token).await, 0);
    assert_eq!(wechat.requests().len(), 1);
}

#[tokio::test]
async fn a_request_under_way_stays_forgotten() {
    let (wechat, caller) = started().await;
    wechat.set_token_delay(Duration::from_millis(20));
    let asking = tokio::spawn(async move { caller.token().await });
    until(|| wechat.token_requests().started == 1).await;
    wechat.clear();
    asking.await.unwrap();
    assert!(wechat.requests().is_empty());
    assert_eq!(wechat.token_requests().issued, 0);
}

#[tokio::test]
async fn connections_are_reused_and_numbered() {
    let (wechat, caller, token) = started_with_token().await;
    for _ in 0..3 {
        caller.call(&token).await;
    }
    Caller::new(&wechat).call(&token).await;
    let connections: Vec<_> = wechat.requests().iter().map(|r| r.connection()).collect();
    assert_eq!(connections, [1, 1, 1, 1, 2]);
}

// The server

#[tokio::test]
async fn the_last_handle_dropped_stops_the_server() {
    let (wechat, caller) = started().await;
    let addr = wechat.addr();
    assert_eq!(wechat.url(), format!("http://{addr}"));
    let mut open = TcpStream::connect(addr).await.unwrap();
    open.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(open.read_u8().await.unwrap(), b'H');

    drop(wechat);
    assert_eq!(caller.call("x").await, 40001);
    drop(caller);
    let mut rest = Vec::new();
    let _ = open.read_to_end(&mut rest).await;
    while TcpStream::connect(addr).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn garbage_does_no_harm() {
    let (wechat, caller) = started().await;
    for garbage in [
        &b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03"[..],
        b"GET\r\n\r\n",
        b"GET /cgi-bin/token?appid=%FF%&%%%=&&&===& HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        b"GET /cgi-bin/media/get?size=-1&access_token=%zz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        b"POST /cgi-bin/stable_token HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{",
        b"POST /cgi-bin/stable_token HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"OPTIONS * HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(wechat.addr()).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut reply = Vec::new();
        let _ = stream.read_to_end(&mut reply).await;
    }
    let token = caller.token().await;
    assert_eq!(caller.call(&token).await, 0);
}

#[tokio::test]
async fn debug_tells_no_secret() {
    let (wechat, caller, token) = started_with_token().await;
    caller.call(&token).await;
    let failure = Failure::TokenBody(token.clone().into());
    let builder = MockWechat::builder().account("wx1", wechat.secret());
    let told = format!("{wechat:?} {:?} {failure:?} {builder:?}", wechat.requests());
    assert!(
        !told.contains(&token) && !told.contains(wechat.secret()),
        "{told}"
    );
    assert!(told.contains("RecordedRequest { method: GET, path: \"/cgi-bin/user/get\", .. }"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_callers_are_served_at_once() {
    let (wechat, caller, token) = started_with_token().await;
    let calls: Vec<_> = (0..200)
        .map(|_| {
            let (caller, token) = (caller.clone(), token.clone());
            tokio::spawn(async move { caller.call(&token).await })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap(), 0);
    }
    assert_eq!(wechat.requests().len(), 201);
}
