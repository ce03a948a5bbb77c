//! nginx as the reverse proxy that it is, with one worker.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;

use tokio::time::{Duration, sleep};

use super::process::{self, Server};

/// `None` where it is not installed.
pub(super) async fn start(upstream: &Server) -> Option<Server> {
    if !process::is_there("nginx") {
        return None;
    }
    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = free.local_addr().expect("an address").to_string();
    drop(free);
    let folder = process::scratch("nginx");
    fs::create_dir_all(&folder).expect("a folder");
    let file = folder.join("nginx.conf");
    fs::write(&file, config(&address, &upstream.address)).expect("a file");
    let mut command = process::on_servers_core("nginx");
    command.arg("-p").arg(&folder).arg("-c").arg(file);
    command.args(["-e", "stderr"]).stdin(Stdio::null());
    let server = Server::of(command.spawn().expect("nginx"), address);
    while TcpStream::connect(&server.address).is_err() {
        sleep(Duration::from_millis(10)).await;
    }
    Some(server)
}

/// One process, whose CPU time is all there is; connections live as long as with the others.
fn config(address: &str, upstream: &str) -> String {
    format!(
        "daemon off;
master_process off;
worker_processes 1;
pid nginx.pid;
error_log stderr;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    upstream wechat {{
        server {upstream};
        keepalive 64;
        keepalive_requests 1000000000;
    }}
    server {{
        listen {address};
        location / {{
            proxy_pass http://wechat;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
        }}
    }}
}}
"
    )
}
