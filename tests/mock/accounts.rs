//! Several accounts in one server: what one has is none of the others' business.

use super::*;

const SEND: &str = "/cgi-bin/message/custom/send?access_token=";
const MESSAGE: &str = r#"{"touser":"O","msgtype":"text"}"#;

async fn two() -> (MockWechat, Caller) {
    let builder = MockWechat::builder().account("wx1", "one");
    let wechat = builder.another_account("wx2", "two").start().await;
    let caller = Caller::new(&wechat);
    (wechat, caller)
}

impl Caller {
    async fn ask_token_of(&self, appid: &str, secret: &str) -> Reply {
        self.get(&format!(
            "/cgi-bin/token?grant_type=client_credential&appid={appid}&secret={secret}"
        ))
        .await
    }
}

#[tokio::test]
async fn each_account_has_tokens_of_its_own() {
    let (wechat, caller) = two().await;
    let first = caller.ask_token_of("wx1", "one").await.token();
    let second = caller.ask_token_of("wx2", "two").await.token();
    assert_eq!(wechat.current_token().as_deref(), Some(&*first));
    let other = wechat.account("wx2");
    assert_eq!(other.current_token().as_deref(), Some(&*second));

    other.revoke();
    assert_eq!(
        (caller.call(&first).await, caller.call(&second).await),
        (0, 40001)
    );
    wechat.expire();
    assert_eq!(
        (caller.call(&first).await, caller.call(&second).await),
        (42001, 40001)
    );
    let second = caller.ask_token_of("wx2", "two").await.token();
    wechat.revoke();
    assert_eq!(caller.call(&second).await, 0);
}

#[tokio::test]
async fn a_secret_opens_its_own_account_only() {
    let (wechat, caller) = two().await;
    assert_eq!(caller.ask_token_of("wx1", "two").await.errcode(), 40125);
    assert_eq!(caller.ask_token_of("wx3", "one").await.errcode(), 40013);
    wechat.account("wx2").deny_address(true);
    assert_eq!(caller.ask_token_of("wx1", "one").await.errcode(), 0);
    assert_eq!(caller.ask_token_of("wx2", "two").await.errcode(), 40164);
}

#[tokio::test]
async fn each_account_has_a_quota_of_its_own() {
    let (wechat, caller) = two().await;
    wechat.account("wx2").set_quota(1);
    for errcode in [0, 45009] {
        assert_eq!(caller.ask_token_of("wx2", "two").await.errcode(), errcode);
        assert_eq!(caller.ask_token_of("wx1", "one").await.errcode(), 0);
    }
    let counts = wechat.account("wx2").token_requests();
    assert_eq!((counts.started, counts.issued), (2, 1));
    assert_eq!(wechat.token_requests().started, 4);
}

#[tokio::test]
async fn a_call_is_the_account_s_whose_token_it_carries() {
    let (wechat, caller) = two().await;
    let second = caller.ask_token_of("wx2", "two").await.token();
    caller.post(&format!("{SEND}{second}"), MESSAGE).await;
    assert!(wechat.messages().is_empty());
    assert_eq!(wechat.account("wx2").messages().len(), 1);
    caller.call("x").await;
    let requests = wechat.requests();
    let accounts: Vec<_> = requests.iter().map(|r| r.account()).collect();
    assert_eq!(accounts, [Some("wx2"), Some("wx2"), None]);

    let menu = json!({"button": [{"type": "click", "name": "x", "key": "V1"}]}).to_string();
    let path = format!("/cgi-bin/menu/create?access_token={second}");
    assert_eq!(caller.post(&path, menu).await.errcode(), 0);
    let first = caller.ask_token_of("wx1", "one").await.token();
    let path = format!("/cgi-bin/menu/get?access_token={first}");
    assert_eq!(caller.get(&path).await.errcode(), 46003);

    wechat.clear();
    assert!(wechat.account("wx2").messages().is_empty());
}

#[tokio::test]
async fn applications_of_one_company_have_its_id_and_a_secret_each() {
    let builder = MockWechat::builder().account("ww1", "one");
    let wechat = builder.another_account("ww1", "two").start().await;
    let caller = Caller::new(&wechat);
    let mut tokens = Vec::new();
    for secret in ["one", "two"] {
        let path = format!("/cgi-bin/gettoken?corpid=ww1&corpsecret={secret}");
        tokens.push(caller.get(&path).await.token());
    }
    assert_ne!(tokens[0], tokens[1]);
    wechat.accounts()[1].revoke();
    assert_eq!(caller.call(&tokens[0]).await, 0);
    assert_eq!(caller.call(&tokens[1]).await, 40014);
    let wrong = caller
        .get("/cgi-bin/gettoken?corpid=ww1&corpsecret=x")
        .await;
    assert_eq!(wrong.errcode(), 40001);
}

#[tokio::test]
#[should_panic = "no account \"wx3\""]
async fn an_account_that_is_not_there_is_a_mistake_in_the_test() {
    let (wechat, _caller) = two().await;
    wechat.account("wx3").revoke();
}

#[tokio::test]
async fn an_accounts_handle_keeps_the_server_and_no_secret_in_debug() {
    let (wechat, caller) = two().await;
    let account = wechat.account("wx2");
    assert_eq!((account.appid(), account.secret()), ("wx2", "two"));
    assert_eq!(format!("{account:?}"), "MockAccount { appid: \"wx2\", .. }");
    let Caller { http, wechat: last } = caller;
    let url = last.url();
    drop((wechat, last));
    let request = Request::get(format!("{url}/cgi-bin/user/get"));
    let request = request.body(Either::Left(Full::default())).unwrap();
    let reply = read(http.request(request).await.unwrap()).await;
    assert_eq!(reply.errcode(), 41001);
}
