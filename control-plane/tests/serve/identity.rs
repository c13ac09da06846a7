//! The identity of a cluster under test: an authority, everybody's certificates, the first token; and what it writes to
//! its audit.

use control_plane::clock;
use identity::authority::Authority;
use identity::credentials::Credentials;
use identity::folder;
use identity::principal::Principal;
use identity::token::Secret;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::{Request, Status};

pub(crate) struct Identity {
    pub(crate) authority: Authority,
    /// The administrator's.
    pub(crate) token: Secret,
    dir: PathBuf,
}

impl Identity {
    pub(crate) fn make(dir: &Path) -> Self {
        Self {
            authority: Authority::create(clock::wall()).expect("made"),
            token: Secret::generate().expect("randomness"),
            dir: dir.to_owned(),
        }
    }

    pub(crate) fn folder(&self, principal: &Principal) -> PathBuf {
        self.dir.join("tls").join(principal.to_string())
    }

    /// A new certificate, in the place of the one before.
    pub(crate) fn issue(&self, principal: &Principal, hosts: &[String]) -> PathBuf {
        let dir = self.folder(principal);
        let issued = self
            .authority
            .issue(principal, hosts, clock::wall())
            .expect("issued");
        folder::create(&dir).expect("made");
        folder::write(&dir.join(folder::AUTHORITY), self.authority.certificate()).expect("written");
        folder::write(&dir.join(folder::KEY), &issued.key).expect("written");
        folder::write(&dir.join(folder::CERTIFICATE), &issued.chain).expect("written");
        dir
    }

    /// Gives a replica all that it needs.
    pub(crate) fn equip(&self, id: u64, host: &str) {
        let dir = self.issue(&Principal::Replica(id), &[host.to_owned()]);
        folder::write(&dir.join(folder::AUTHORITY_KEY), &self.authority.key()).expect("written");
        let first = self.token.hash().record(self.token.id());
        folder::write(&dir.join(folder::FIRST_TOKEN), &first).expect("written");
    }

    pub(crate) fn node(&self, id: &str) -> Credentials {
        let principal = Principal::Node(id.parse().expect("an id"));
        Credentials::open(&self.issue(&principal, &[])).expect("it is whole")
    }
}

/// Shows a token.
#[derive(Clone)]
pub(crate) struct Bearer(pub(crate) Option<Secret>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(secret) = &self.0 {
            let value = MetadataValue::try_from(format!("Bearer {secret}")).expect("it is text");
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

static LINES: OnceLock<Mutex<Vec<serde_json::Value>>> = OnceLock::new();

struct Lines;

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let line = serde_json::from_slice(bytes).expect("a line is JSON");
        let lines = LINES.get_or_init(Mutex::default);
        lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// From now on, the audit of all clusters of this process is kept.
pub(crate) fn keep_audit() {
    static SET: OnceLock<()> = OnceLock::new();
    SET.get_or_init(|| {
        tracing_subscriber::fmt()
            .json()
            .with_env_filter("audit=info")
            .with_writer(|| Lines)
            .init();
    });
}

/// The lines about an object, as objects.
pub(crate) fn audit_of(what: &str) -> Vec<serde_json::Value> {
    let lines = LINES.get_or_init(Mutex::default);
    let lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
    let about = lines.iter().filter(|line| line["fields"]["what"] == what);
    about.map(|line| line["fields"].clone()).collect()
}
