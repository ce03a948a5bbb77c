//! All rows, in turns.

use super::load::{self, Ask};
use super::process::Server;
use super::table::{self, Row};
use super::{STABLE_TOKEN_PATH, TOKEN, check, nginx, token_path};

const ROUNDS: u32 = 7;

pub(super) fn all() {
    if !load::is_there() {
        println!("there is no wrk, so nothing is measured: {}", load::INSTALL);
        return;
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    println!("{}", load::describe());
    runtime.block_on(token_endpoints());
    runtime.block_on(proxies());
}

async fn token_endpoints() {
    let servers = [
        ("axum alone", Server::start("bare_token", None)),
        ("`TokenServer`", Server::start("token_server", None)),
        (
            "the same by `serve`",
            Server::start("token_server_by_serve", None),
        ),
        (
            "`TokenServer`, counting for Prometheus",
            Server::start("token_server_counting", None),
        ),
    ];
    for (_, server) in &servers {
        check::token_endpoints(server).await;
    }
    let plain = Ask::Get(token_path());
    let stable = Ask::Post(STABLE_TOKEN_PATH);
    for (title, ask) in [
        ("GET /cgi-bin/token", plain),
        ("POST /cgi-bin/stable_token", stable),
    ] {
        let servers = servers.iter().map(|(name, server)| (*name, server, &ask));
        compare(title, &servers.collect::<Vec<_>>());
    }
}

async fn proxies() {
    let upstream = Server::start("upstream", None);
    let bare = Server::start("bare_proxy", Some(&upstream));
    let gateway = Server::start("gateway", Some(&upstream));
    let by_serve = Server::start("gateway_by_serve", Some(&upstream));
    let counting = Server::start("gateway_counting", Some(&upstream));
    let nginx = nginx::start(&upstream).await;

    let opaque = check::opaque_token(&gateway).await;
    let ours = [&gateway, &by_serve, &counting];
    check::proxy(&bare, TOKEN).await;
    for server in ours {
        check::proxy(server, &opaque).await;
    }
    let users = Ask::Get(check::users_path(&opaque));
    let mut servers = vec![
        ("a reverse proxy of axum and hyper-util alone", &bare),
        ("`Gateway`", &gateway),
        ("the same by `serve`", &by_serve),
        ("`Gateway`, counting for Prometheus", &counting),
    ];
    match &nginx {
        Some(nginx) => {
            check::proxy(nginx, TOKEN).await;
            servers.push(("nginx, `proxy_pass`", nginx));
        }
        None => println!(
            "there is no nginx, so its row is left out: {}",
            load::INSTALL
        ),
    }
    let servers = servers.into_iter();
    let servers = servers.map(|(name, server)| (name, server, &users));
    compare("GET /cgi-bin/user/get", &servers.collect::<Vec<_>>());
}

/// The first is what the others are compared with.
fn compare(title: &str, servers: &[(&str, &Server, &Ask)]) {
    let rounds = std::env::var("THROUGHPUT_ROUNDS").ok();
    let rounds = rounds.and_then(|n| n.parse().ok()).unwrap_or(ROUNDS);
    let mut rows: Vec<_> = servers.iter().map(|(name, ..)| Row::new(name)).collect();
    for _ in 0..rounds {
        for (row, (_, server, ask)) in rows.iter_mut().zip(servers) {
            row.samples.push(load::run(server, ask));
        }
    }
    table::print(title, &rows);
}
