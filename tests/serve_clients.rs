//! That real clients read a refusal which comes before they have sent all, and go on: those that
//! hyper#3078 and requests#2422 tell of. Each posts 1 to 8 MiB to somebody who does not read them,
//! and then asks again.

mod support;

use std::io::ErrorKind;
use std::time::Duration;

use axum::Router;
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::time::timeout;
use tower_wechat::server::{Bounds, serve};

/// What each is to print: four refusals, and a reply after each.
const WANTED: &str = "42001 well 42001 well 42001 well 42001 well";

/// Runs a client with the server's address as its last argument, without drain and with it: the
/// refusal closes its connection, or keeps it.
async fn assert_reads_refusals(program: &str, arguments: &[&str]) {
    for drained in [0, 16 * 1024 * 1024] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new()
            .route("/", get(async || "well"))
            .route("/refuse", post(async || "42001"));
        let bounds = Bounds::default().drained(drained, Duration::from_secs(60));
        let serving = tokio::spawn(async move { serve(listener, router, bounds).await });

        let mut command = Command::new(program);
        command.args(arguments).arg(address.to_string());
        let ended = timeout(
            Duration::from_secs(120),
            command.kill_on_drop(true).output(),
        )
        .await;
        let ended = match ended.expect("it ends in time") {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                println!("!!! There is no {program} here: LEFT OUT.");
                return;
            }
            ended => ended.unwrap(),
        };
        let printed = String::from_utf8_lossy(&ended.stdout);
        let printed: Vec<_> = printed.split_whitespace().collect();
        let complaint = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(printed.join(" "), WANTED, "{drained}: {complaint}");
        serving.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pythons_http_client() {
    let script = r#"
import http.client, sys
client = http.client.HTTPConnection(sys.argv[1], timeout=60)
for size in 1, 2, 4, 8:
    for method, path, body in ("POST", "/refuse", b"x" * (size << 20)), ("GET", "/", None):
        client.request(method, path, body)
        print(client.getresponse().read().decode())
"#;
    assert_reads_refusals("python3", &["-c", script]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node() {
    let script = r#"
const http = require("http");
const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
const ask = (method, path, body) => new Promise((done, failed) => {
    const request = http.request(`http://${process.argv[1]}${path}`, { agent, method }, (reply) => {
        let text = "";
        reply.on("data", (data) => text += data).on("end", () => { console.log(text); done(); }).on("error", failed);
    });
    request.on("error", failed).end(body);
});
(async () => {
    for (const size of [1, 2, 4, 8]) {
        await ask("POST", "/refuse", Buffer.alloc(size << 20, "x"));
        await ask("GET", "/");
    }
    agent.destroy();
})();
"#;
    assert_reads_refusals("node", &["-e", script]).await;
}

/// As PHP's curl, which does not wait for leave, and as curl's own program, which does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl() {
    for header in ["Expect:", "Expect: 100-continue"] {
        let script = format!(
            r#"
for size in 1 2 4 8; do
    head -c ${{size}}M /dev/zero | tr '\0' x >"$1/body"
    curl -sS --fail -H '{header}' --data-binary @"$1/body" -w '\n' "http://$2/refuse" --next -sS -w '\n' "http://$2/"
done"#
        );
        let folder = env!("CARGO_TARGET_TMPDIR");
        let folder = format!("{folder}/serve-clients-{}", std::process::id());
        std::fs::create_dir_all(&folder).unwrap();
        if std::process::Command::new("curl")
            .arg("-V")
            .output()
            .is_err()
        {
            println!("!!! There is no curl here: LEFT OUT.");
            return;
        }
        assert_reads_refusals("sh", &["-c", &script, "sh", &folder]).await;
        std::fs::remove_dir_all(&folder).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn javas_http_url_connection() {
    let folder = env!("CARGO_TARGET_TMPDIR");
    let folder = format!("{folder}/serve-clients-java-{}", std::process::id());
    std::fs::create_dir_all(&folder).unwrap();
    let file = format!("{folder}/Client.java");
    let program = r#"
import java.net.*;
public class Client {
    public static void main(String[] arguments) throws Exception {
        for (int size : new int[] {1, 2, 4, 8}) {
            ask(arguments[0] + "/refuse", new byte[size << 20]);
            ask(arguments[0] + "/", null);
        }
    }
    static void ask(String where, byte[] body) throws Exception {
        HttpURLConnection connection = (HttpURLConnection) new URL("http://" + where).openConnection();
        if (body != null) {
            connection.setDoOutput(true);
            connection.getOutputStream().write(body);
        }
        System.out.println(new String(connection.getInputStream().readAllBytes()));
    }
}
"#;
    std::fs::write(&file, program).unwrap();
    assert_reads_refusals("java", &[&file]).await;
    std::fs::remove_dir_all(&folder).unwrap();
}
