//! A real nginx before the replicas, as operators run it.

use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::redis::free_addr;
use super::{eventually, temporary_directory};

/// Unless a test says otherwise.
const KEEPS_SILENT_STREAMS: Duration = Duration::from_hours(1);

/// Dies with the test.
#[derive(Debug)]
pub(crate) struct Nginx {
    child: Child,
    addr: SocketAddr,
    replicas: Vec<SocketAddr>,
    dir: TempDir,
}

/// In which way streams are held back.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Gathers {
    /// Until a buffer is full: of an answer without chunks, as nginx by its defaults asks for it.
    AsItIs,
    /// Until there is enough to compress, for who takes it compressed.
    Compressed,
}

impl Nginx {
    /// Balances over `replicas`; one that can't be reached is left out for a second.
    pub(crate) async fn start(replicas: &[SocketAddr]) -> Self {
        let dir = temporary_directory();
        let addr = free_addr();
        write_configuration(&dir, addr, replicas, KEEPS_SILENT_STREAMS);
        let nginx = Self {
            child: spawn(&dir),
            addr,
            replicas: replicas.to_vec(),
            dir,
        };
        nginx.listens().await;
        nginx
    }

    pub(crate) fn base(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Cuts every connection, and serves new ones.
    pub(crate) async fn restart(&mut self) {
        self.restart_cutting(KEEPS_SILENT_STREAMS).await;
    }

    /// The same, and cuts streams that say nothing for so long.
    pub(crate) async fn restart_cutting(&mut self, silent: Duration) {
        self.kill();
        write_configuration(&self.dir, self.addr, &self.replicas, silent);
        self.child = spawn(&self.dir);
        self.listens().await;
    }

    /// The same, and gathers streams, whatever they ask for themselves.
    pub(crate) async fn restart_gathering(&mut self, how: Gathers) {
        self.kill();
        let ignoring = match how {
            Gathers::AsItIs => "proxy_http_version 1.0; proxy_ignore_headers X-Accel-Buffering;",
            Gathers::Compressed => "proxy_hide_header Content-Encoding; proxy_ignore_headers X-Accel-Buffering;",
        };
        let text = configuration(self.addr, &self.replicas, KEEPS_SILENT_STREAMS.as_secs());
        let text = text.replace("location /events/ {", &format!("location /events/ {{ {ignoring}"));
        std::fs::write(self.dir.path().join("nginx.conf"), text).expect("a configuration");
        self.child = spawn(&self.dir);
        self.listens().await;
    }

    async fn listens(&self) {
        eventually("nginx listens", || async { TcpStream::connect(self.addr).ok() }).await;
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(dir: &TempDir) -> Child {
    Command::new("nginx")
        .args([
            "-p",
            &dir.path().display().to_string(),
            "-c",
            "nginx.conf",
            "-e",
            "error.log",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("nginx is not installed: `apt-get install nginx-light`, or run scripts/test")
}

fn write_configuration(dir: &TempDir, addr: SocketAddr, replicas: &[SocketAddr], keeps: Duration) {
    let text = configuration(addr, replicas, keeps.as_secs());
    std::fs::write(dir.path().join("nginx.conf"), text).expect("a configuration");
}

fn configuration(addr: SocketAddr, replicas: &[SocketAddr], keeps_seconds: u64) -> String {
    let server = |replica| format!("server {replica} max_fails=1 fail_timeout=1s;");
    let servers = replicas.iter().map(server).collect::<Vec<_>>().join(" ");
    // One process, so that its death is the end of it; what it writes stays in its own directory. It buffers as nginx does unless
    // it is told otherwise, and compresses what it may: that a stream comes through at once is for the stream itself to see to.
    format!(
        "daemon off; master_process off; pid nginx.pid; error_log error.log;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    upstream replicas {{ {servers} keepalive 64; keepalive_timeout 2s; }}
    server {{
        listen {addr} backlog=4096;
        proxy_http_version 1.1;
        proxy_set_header Connection '';
        proxy_set_header Host $http_host;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        gzip on; gzip_proxied any; gzip_types text/event-stream;
        proxy_connect_timeout 1s;
        proxy_read_timeout 60s;
        location / {{ proxy_pass http://replicas; }}
        location /events/ {{ proxy_pass http://replicas; proxy_read_timeout {keeps_seconds}s; }}
    }}
}}
"
    )
}
