//! NEVER BUILT: an example to start from, written beside the tested clients in Node and C++ (see ../README.md).
//!
//! smartdj-edit edits one recording on a SmartDJ server and tells what happens meanwhile.
//!
//! One bidirectional call, EditService.Edit, does it all. We send a header, the recording in chunks and its hash, and
//! perhaps a cancel; the server sends events (what it hears, the plan, progress, warnings) and the bytes of the audio.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use prost::Message;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

// The generated code names its packages by their place below the root of the crate.
mod google {
    pub mod rpc {
        tonic::include_proto!("google.rpc");
    }
}
mod smartdj {
    pub mod v1 {
        tonic::include_proto!("smartdj.v1");
    }
}
use smartdj::v1::{self, edit_request::Payload as Say, edit_response::Payload as Hear, job_event::Event};

const CHUNK_BYTES: usize = 256 * 1024;

/// Edits one recording on a SmartDJ server.
#[derive(Parser, Clone)]
struct Wanted {
    /// HOST:PORT
    address: String,
    input: PathBuf,
    instruction: String,
    output: PathBuf,
    #[arg(long, default_value_t = 0)]
    seed: u32,
    /// Folder for the recording after every step; new or empty
    #[arg(long)]
    steps_dir: Option<PathBuf>,
    #[arg(long)]
    token_file: Option<PathBuf>,
    /// Certificate of the authority that signed the server's; without it there is no TLS
    #[arg(long)]
    tls_ca: Option<PathBuf>,
    /// A step of a plan to carry out as it is; can be given several times
    #[arg(long)]
    plan_step: Vec<String>,
}

/// A failure to show to the person: a stable code, one line, and what to do about it.
struct Problem {
    code: String,
    message: String,
    hint: String,
    exit_code: u8,
}

impl Problem {
    fn new(code: &str, message: impl ToString, hint: &str) -> Self {
        Problem { code: code.into(), message: message.to_string(), hint: hint.into(), exit_code: 1 }
    }
}

impl From<std::io::Error> for Problem {
    fn from(error: std::io::Error) -> Self {
        Problem::new("system", error, "")
    }
}

impl From<tonic::transport::Error> for Problem {
    fn from(error: tonic::transport::Error) -> Self {
        Problem::new("unavailable", error, "is the server running?")
    }
}

/// The details (grpc-status-details-bin, decoded by tonic) are a google.rpc.Status.
impl From<tonic::Status> for Problem {
    fn from(status: tonic::Status) -> Self {
        match google::rpc::Status::decode(status.details()) {
            Ok(details) if !details.details.is_empty() => details.into(),
            _ => Problem::new(&format!("{:?}", status.code()).to_lowercase(), status.message(), ""),
        }
    }
}

/// ErrorInfo has our code and hint, BadRequest the field that is to blame.
impl From<google::rpc::Status> for Problem {
    fn from(status: google::rpc::Status) -> Self {
        let mut problem = Problem::new("unknown", &status.message, "");
        for detail in &status.details {
            if detail.type_url.ends_with("/google.rpc.ErrorInfo") {
                if let Ok(info) = google::rpc::ErrorInfo::decode(detail.value.as_slice()) {
                    problem.code = info.reason.to_lowercase();
                    problem.hint = info.metadata.get("hint").cloned().unwrap_or_default();
                }
            } else if detail.type_url.ends_with("/google.rpc.BadRequest") {
                if let Ok(request) = google::rpc::BadRequest::decode(detail.value.as_slice()) {
                    if let Some(violation) = request.field_violations.first() {
                        problem.message = format!("{}: {}", violation.field, problem.message);
                    }
                }
            }
        }
        problem
    }
}

/// A file on its way in: it lies under another name in the folder it belongs to until it is whole.
struct PartFile {
    path: PathBuf,
    file: tokio::fs::File,
    hash: Sha256,
    size: i64,
    sha256: String,
}

impl PartFile {
    async fn create(folder: &Path) -> Result<Self, Problem> {
        let path = folder.join(format!(".smartdj-{}.part", uuid::Uuid::new_v4()));
        let file = tokio::fs::File::create_new(&path).await?;
        Ok(PartFile { path, file, hash: Sha256::new(), size: 0, sha256: String::new() })
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Problem> {
        self.hash.update(bytes);
        self.size += bytes.len() as i64;
        Ok(self.file.write_all(bytes).await?)
    }

    /// Makes the bytes safe on disk and checks that they are the ones that were meant.
    async fn finish(&mut self, sha256: &str) -> Result<(), Problem> {
        self.file.flush().await?;
        self.file.sync_all().await?;
        let found = format!("{:x}", self.hash.finalize_reset());
        if found != sha256 {
            let message = format!("the audio came damaged: its hash is {found}, not {sha256}");
            return Err(Problem::new("data_loss", message, "run again"));
        }
        self.sha256 = found;
        Ok(())
    }

    /// Gives the file its name, which nobody may have yet: taking the name fails where it is taken.
    fn place(&self, target: &Path) -> Result<(), Problem> {
        std::fs::File::create_new(target)?;
        std::fs::rename(&self.path, target)?;
        Ok(std::fs::File::open(folder_of(target))?.sync_all()?)
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path); // gone already where it was placed
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Fails in the first second rather than the last: nothing is ever overwritten.
fn check_files(wanted: &Wanted) -> Result<(), Problem> {
    if !wanted.input.is_file() {
        let message = format!("{} is not a file", wanted.input.display());
        return Err(Problem::new("audio_not_found", message, "give the name of a recording"));
    }
    if wanted.output.symlink_metadata().is_ok() {
        let message = format!("{} already exists", wanted.output.display());
        return Err(Problem::new("output_exists", message, "give another name"));
    }
    if let Some(folder) = &wanted.steps_dir {
        std::fs::create_dir_all(folder)?;
        if std::fs::read_dir(folder)?.next().is_some() {
            let message = format!("{} is not empty", folder.display());
            return Err(Problem::new("output_exists", message, "give another folder to --steps-dir"));
        }
    }
    Ok(())
}

/// All that we ever say, in order. tonic asks for a message when there is room for it, so we never read ahead.
fn requests(
    wanted: Wanted,
    mut input: tokio::fs::File,
    mut stopped: watch::Receiver<Option<Instant>>,
) -> impl tokio_stream::Stream<Item = v1::EditRequest> {
    let say = |payload| v1::EditRequest { payload: Some(payload) };
    async_stream::stream! {
        let wish = if wanted.plan_step.is_empty() {
            v1::job_spec::Wish::Instruction(wanted.instruction)
        } else {
            let steps = wanted.plan_step.into_iter().map(|text| v1::Step { text, ..Default::default() }).collect();
            v1::job_spec::Wish::Plan(v1::Plan { instruction: wanted.instruction, steps, ..Default::default() })
        };
        let spec = v1::JobSpec {
            wish: Some(wish),
            mode: v1::Mode::Preserve.into(),
            seed: wanted.seed,
            output_encoding: v1::OutputEncoding::Source.into(),
            source_name: wanted.input.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            ..Default::default()
        };
        let delivery = if wanted.steps_dir.is_some() { v1::Delivery::EveryStep } else { v1::Delivery::Result };
        yield say(Say::Header(v1::EditHeader {
            request_id: uuid::Uuid::new_v4().to_string(),
            audio: None,
            spec: Some(spec),
            delivery: delivery.into(),
            on_disconnect: v1::OnDisconnect::Cancel.into(),
        }));
        let mut hash = Sha256::new();
        while stopped.borrow().is_none() {
            let mut data = Vec::with_capacity(CHUNK_BYTES);
            match (&mut input).take(CHUNK_BYTES as u64).read_to_end(&mut data).await {
                Ok(0) => break,
                Ok(_) => {
                    hash.update(&data);
                    yield say(Say::Data(data));
                }
                Err(error) => {
                    eprintln!("error: system: {error}");
                    yield say(Say::Cancel(v1::EditCancel {}));
                    return;
                }
            }
        }
        if stopped.borrow().is_none() {
            yield say(Say::AudioEnd(v1::AudioEnd { sha256: format!("{:x}", hash.finalize()) }));
        }
        // Until the end, in most runs; our half of the stream stays open for a cancel.
        if stopped.wait_for(|moment| moment.is_some()).await.is_ok() {
            yield say(Say::Cancel(v1::EditCancel {}));
        }
    }
}

/// Shows one event: lines on stderr, and below them one line of progress that is drawn over and over.
fn show(event: &Event) {
    let clear = if std::io::stderr().is_terminal() { "\r\x1b[K" } else { "" };
    match event {
        Event::Progress(now) => {
            let place = match now.step_count {
                0 => String::new(),
                count => format!("step {}/{count}: ", now.step_index() + 1),
            };
            let (percent, end) = (now.fraction * 100.0, if clear.is_empty() { "\n" } else { "" });
            let speed = format!("{:.2} × real time, {:.0} s left", now.realtime_factor, now.left_s);
            eprint!("{clear}{place}{} {percent:.0} %, {speed}{end}", now.stage);
            let _ = std::io::stderr().flush();
        }
        Event::Queued(queued) => eprintln!("waiting: {} before this one", queued.position),
        Event::Listened(listened) => {
            for sound in &listened.sounds {
                let place = sound.azimuth_deg.map(|degrees| format!(", {degrees:.0}°")).unwrap_or_default();
                let (percent, start_s, end_s) = (sound.confidence * 100.0, sound.start_s, sound.end_s);
                eprintln!("{clear}heard: {} ({percent:.0} %, {start_s:.1}–{end_s:.1} s{place})", sound.label);
            }
        }
        Event::StepPlanned(planned) => {
            let text = planned.step.as_ref().map(|step| step.text.as_str()).unwrap_or_default();
            eprintln!("{clear}plan: {}. {text}", planned.index + 1);
        }
        Event::StepFinished(done) => {
            let speed = format!("{:.1} s ({:.2} × real time)", done.elapsed_s, done.realtime_factor);
            eprintln!("{clear}  done in {speed}, {}, {:.0} % sure", done.method, done.confidence * 100.0);
        }
        Event::Warning(warning) if warning.hint.is_empty() => eprintln!("{clear}warning: {}", warning.message),
        Event::Warning(warning) => eprintln!("{clear}warning: {} ({})", warning.message, warning.hint),
        _ => {}
    }
}

/// What came in the course of a call.
#[derive(Default)]
struct Heard {
    part: Option<PartFile>, // the newest audio; after the last step this is the result
    steps: Vec<serde_json::Value>,
    summary: Option<v1::SummaryEvent>,
    question: Option<v1::QuestionEvent>,
    failed: Option<google::rpc::Status>,
}

impl Heard {
    async fn read(&mut self, wanted: &Wanted, answers: &mut tonic::Streaming<v1::EditResponse>) -> Result<(), Problem> {
        while let Some(answer) = answers.message().await? {
            match answer.payload {
                Some(Hear::Audio(chunk)) => self.receive(wanted, chunk).await?,
                Some(Hear::Event(v1::JobEvent { event: Some(event), .. })) => {
                    show(&event);
                    match event {
                        Event::StepFinished(done) => {
                            let (step, audio) = (done.step.unwrap_or_default(), done.audio.unwrap_or_default());
                            self.steps.push(json!({
                                "index": done.index, "text": step.text, "sha256": audio.sha256,
                                "audio_sha256": audio.audio_sha256, "elapsed_s": done.elapsed_s}));
                        }
                        Event::Summary(summary) => self.summary = Some(summary),
                        Event::Question(question) => self.question = Some(question),
                        Event::Failed(failed) => self.failed = failed.error,
                        _ => {}
                    }
                }
                _ => {}
            }
        }
        self.failed.take().map_or(Ok(()), |status| Err(status.into()))
    }

    async fn receive(&mut self, wanted: &Wanted, chunk: v1::AudioChunk) -> Result<(), Problem> {
        if chunk.offset_bytes == 0 {
            self.part = Some(PartFile::create(folder_of(&wanted.output)).await?);
        }
        let part = match &mut self.part {
            Some(part) if part.size == chunk.offset_bytes => part,
            _ => return Err(Problem::new("data_loss", "the audio came with a gap", "run again")),
        };
        part.write(&chunk.data).await?;
        if !chunk.last {
            return Ok(());
        }
        part.finish(&chunk.sha256).await?;
        if let Some(folder) = &wanted.steps_dir {
            let mut copy = PartFile::create(folder).await?;
            let mut bytes = tokio::fs::File::open(&part.path).await?;
            let mut data = vec![0; CHUNK_BYTES];
            loop {
                match bytes.read(&mut data).await? {
                    0 => break,
                    count => copy.write(&data[..count]).await?,
                }
            }
            copy.finish(&chunk.sha256).await?;
            let extension = wanted.output.extension().unwrap_or_default().to_string_lossy();
            copy.place(&folder.join(format!("{:02}.{extension}", chunk.step_index + 1)))?;
        }
        Ok(())
    }
}

async fn run(wanted: Wanted) -> Result<u8, Problem> {
    check_files(&wanted)?;
    let loopback = ["localhost:", "127.", "[::1]:"].iter().any(|start| wanted.address.starts_with(start));
    if wanted.token_file.is_some() && wanted.tls_ca.is_none() && !loopback {
        let message = "--token-file needs --tls-ca: the token would cross the network for all to read";
        return Err(Problem { exit_code: 2, ..Problem::new("usage", message, "") });
    }
    let input = tokio::fs::File::open(&wanted.input).await?;

    let (stop, stopped) = watch::channel(None);
    tokio::spawn(async move {
        while tokio::signal::ctrl_c().await.is_ok() {
            if stop.borrow().is_some() {
                std::process::exit(130); // the second time; a .part file may stay behind
            }
            eprintln!("cancelling … (Ctrl-C again to leave at once)");
            stop.send_replace(Some(Instant::now()));
        }
    });

    let scheme = if wanted.tls_ca.is_some() { "https" } else { "http" };
    let mut endpoint = Endpoint::from_shared(format!("{scheme}://{}", wanted.address))?;
    if let Some(file) = &wanted.tls_ca {
        let authority = Certificate::from_pem(std::fs::read(file)?);
        endpoint = endpoint.tls_config(ClientTlsConfig::new().ca_certificate(authority))?;
    }
    let mut client = v1::edit_service_client::EditServiceClient::new(endpoint.connect().await?);
    let mut request = tonic::Request::new(requests(wanted.clone(), input, stopped.clone()));
    if let Some(file) = &wanted.token_file {
        let header = format!("Bearer {}", std::fs::read_to_string(file)?.trim());
        let header: tonic::metadata::AsciiMetadataValue =
            header.parse().map_err(|_| Problem::new("usage", "the token has odd characters", ""))?;
        request.metadata_mut().insert("authorization", header);
    }

    let mut heard = Heard::default();
    let outcome = match client.edit(request).await {
        Ok(answers) => heard.read(&wanted, &mut answers.into_inner()).await,
        Err(status) => Err(status.into()),
    };
    if let Some(moment) = *stopped.borrow() {
        let cancel_to_end_s = moment.elapsed().as_secs_f64();
        eprintln!("cancelled");
        println!(
            "{}",
            json!({"result_sha256": null, "audio_sha256": null, "steps": heard.steps,
                   "cancel_to_end_s": cancel_to_end_s})
        );
        return Ok(130);
    }
    outcome?;
    if let Some(question) = heard.question {
        eprintln!("{}", question.text);
        question.choices.iter().for_each(|choice| eprintln!("  - {choice}"));
        return Ok(22);
    }
    match (heard.summary.and_then(|summary| summary.result), heard.part) {
        (Some(result), Some(part)) if part.sha256 == result.sha256 => {
            part.place(&wanted.output)?;
            println!(
                "{}",
                json!({"result_sha256": result.sha256, "audio_sha256": result.audio_sha256, "steps": heard.steps,
                       "cancel_to_end_s": null})
            );
            Ok(0)
        }
        _ => Err(Problem::new("data_loss", "the server ended without the result", "run again")),
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Wanted::parse()).await {
        Ok(exit_code) => ExitCode::from(exit_code),
        Err(problem) => {
            eprintln!("error: {}: {}", problem.code, problem.message);
            if !problem.hint.is_empty() {
                eprintln!("hint: {}", problem.hint);
            }
            ExitCode::from(problem.exit_code)
        }
    }
}
