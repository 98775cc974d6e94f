// smartdj-edit: edits one recording on a SmartDJ server and tells what happens meanwhile. For POSIX systems.
//
// One bidirectional call, EditService.Edit, does it all. We send a header, the recording in chunks and its hash, and
// perhaps a cancel; the server sends events (what it hears, the plan, progress, warnings) and the bytes of the audio.
//
// Three threads: the main one reads the call, `Send` writes it, and one waits for signals. gRPC allows one reader
// and one writer at a time; a blocked Write is how the server tells us to wait, so nothing is ever read ahead.

#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <grpcpp/grpcpp.h>
#include <openssl/evp.h>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "smartdj/v1/edit.grpc.pb.h"

namespace fs = std::filesystem;
namespace v1 = smartdj::v1;
using Clock = std::chrono::steady_clock;
using Stream = grpc::ClientReaderWriter<v1::EditRequest, v1::EditResponse>;

constexpr const char* kUsage =
    "usage: smartdj-edit HOST:PORT IN \"instruction\" OUT [--seed N] [--steps-dir DIR]\n"
    "                    [--token-file FILE] [--tls-ca FILE] [--plan-step \"remove the sound of X\"]…";
constexpr size_t kChunkBytes = 256 * 1024;
enum Exit { kOk = 0, kError = 1, kUsageError = 2, kQuestion = 22, kCancelled = 130 };

// A failure to show to the person: a stable code, one line, and what to do about it.
struct Problem {
  std::string code, message, hint;
  int exit_code = kError;
};

Problem SystemProblem(const std::string& doing) {
  return {"system", doing + ": " + std::strerror(errno), "", kError};
}

// ---------------------------------------------------------------------------------------------------- what is shown

std::string Format(const char* format, ...) __attribute__((format(printf, 1, 2)));
std::string Format(const char* format, ...) {
  char text[256];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  return text;
}

// Lines on stderr, and below them one line of progress that is drawn over and over.
class Screen {
 public:
  void Say(const std::string& text) {
    std::lock_guard lock(mutex_);
    std::cerr << (line_.empty() ? "" : "\r\x1b[K") + text + "\n" + line_ << std::flush;
  }

  void Progress(const v1::ProgressEvent& event) {
    std::lock_guard lock(mutex_);
    std::string where = event.stage();
    if (event.step_count()) where = Format("step %d/%d: ", event.step_index() + 1, event.step_count()) + where;
    const std::string text = where + Format(" %.0f %%, %.2f × real time, %.0f s left", event.fraction() * 100,
                                            event.realtime_factor(), event.left_s());
    if (terminal_) {
      std::cerr << "\r" + text + "\x1b[K" << std::flush;
      line_ = text;
    } else if (std::string stage = where + Format(" %.0f", std::floor(event.fraction() * 10)); stage != stage_) {
      std::cerr << text + "\n" << std::flush;  // a log gets a line per tenth of the work, not one per event
      stage_ = stage;
    }
  }

  void Rest() {
    std::lock_guard lock(mutex_);
    if (!line_.empty()) std::cerr << "\r\x1b[K" << std::flush;
    line_.clear();
  }

 private:
  std::mutex mutex_;
  const bool terminal_ = isatty(STDERR_FILENO);
  std::string line_, stage_;
} screen;

void Show(const v1::JobEvent& event) {
  if (event.has_queued()) {
    screen.Say(Format("waiting: %d before this one", event.queued().position()));
  } else if (event.has_progress()) {
    screen.Progress(event.progress());
  } else if (event.has_listened()) {
    for (const auto& sound : event.listened().sounds()) {
      screen.Say("heard: " + sound.label() +
                 Format(" (%.0f %%, %.1f–%.1f s", sound.confidence() * 100, sound.start_s(), sound.end_s()) +
                 (sound.has_azimuth_deg() ? Format(", %.0f°)", sound.azimuth_deg()) : ")"));
    }
  } else if (event.has_step_planned()) {
    screen.Say(Format("plan: %d. ", event.step_planned().index() + 1) + event.step_planned().step().text());
  } else if (event.has_plan_ready()) {
    screen.Say(Format("the plan has %d step(s)", event.plan_ready().plan().steps_size()));
  } else if (event.has_step_started()) {
    const auto& step = event.step_started();
    screen.Say(Format("step %d/%d on ", step.index() + 1, step.count()) + step.device() + ": " + step.step().text());
  } else if (event.has_step_finished()) {
    const auto& step = event.step_finished();
    screen.Rest();
    screen.Say(Format("  done in %.1f s (%.2f × real time), ", step.elapsed_s(), step.realtime_factor()) +
               step.method() + Format(", %.0f %% sure", step.confidence() * 100));
  } else if (event.has_warning()) {
    const auto& warning = event.warning();
    screen.Say("warning: " + warning.message() + (warning.hint().empty() ? "" : " (" + warning.hint() + ")"));
  }
}

std::string Quoted(const std::string& text) {  // as JSON
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      quoted += std::string("\\") + c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      quoted += Format("\\u%04x", c);
    } else {
      quoted += c;
    }
  }
  return quoted + "\"";
}

// -------------------------------------------------------------------------------------------------------- problems

// Our code and hint are in ErrorInfo, the field that is to blame in BadRequest.
Problem ProblemOf(const google::rpc::Status& status) {
  static const char* const kNames[] = {
      "ok", "cancelled", "unknown", "invalid_argument", "deadline_exceeded", "not_found", "already_exists",
      "permission_denied", "resource_exhausted", "failed_precondition", "aborted", "out_of_range", "unimplemented",
      "internal", "unavailable", "data_loss", "unauthenticated"};
  Problem problem{status.code() >= 0 && status.code() < 17 ? kNames[status.code()] : "unknown", status.message(), ""};
  google::rpc::ErrorInfo info;
  google::rpc::BadRequest request;
  for (const auto& detail : status.details()) {
    if (detail.Is<google::rpc::ErrorInfo>() && detail.UnpackTo(&info)) {
      problem.code = info.reason();
      for (char& c : problem.code) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
      if (const auto hint = info.metadata().find("hint"); hint != info.metadata().end()) problem.hint = hint->second;
    } else if (detail.Is<google::rpc::BadRequest>() && detail.UnpackTo(&request) && request.field_violations_size()) {
      problem.message = request.field_violations(0).field() + ": " + problem.message;
    }
  }
  return problem;
}

// The bytes of grpc-status-details-bin, which gRPC has already decoded, are a google.rpc.Status.
Problem ProblemOf(const grpc::Status& status) {
  google::rpc::Status details;
  if (status.error_details().empty() || !details.ParseFromString(status.error_details())) {
    details.set_code(status.error_code());
    details.set_message(status.error_message());
  }
  return ProblemOf(details);
}

// ----------------------------------------------------------------------------------------------------------- files

class Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) { EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr); }
  void Update(const std::string& bytes) { EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()); }
  std::string Hex() {
    unsigned char digest[32];
    EVP_DigestFinal_ex(context_.get(), digest, nullptr);
    std::string hex;
    for (const unsigned char byte : digest) hex += Format("%02x", byte);
    return hex;
  }

 private:
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_;
};

std::string Uuid4() {
  std::random_device random;
  unsigned char b[16];
  for (unsigned char& byte : b) byte = static_cast<unsigned char>(random());
  b[6] = (b[6] & 0x0f) | 0x40;
  b[8] = (b[8] & 0x3f) | 0x80;
  std::string uuid;
  for (int i = 0; i < 16; ++i) uuid += Format(i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", b[i]);
  return uuid;
}

// A file on its way in: it lies under another name in the folder it belongs to until it is whole.
class PartFile {
 public:
  explicit PartFile(const fs::path& folder)
      : path_((folder.empty() ? "." : folder) / (".smartdj-" + Uuid4() + ".part")) {
    {
      std::lock_guard lock(alive_mutex_);
      alive_.insert(path_);
    }
    file_ = open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (file_ < 0) throw SystemProblem("can't write in " + path_.parent_path().string());
  }

  ~PartFile() {
    if (file_ >= 0) close(file_);
    std::lock_guard lock(alive_mutex_);
    unlink(path_.c_str());
    alive_.erase(path_);
  }

  PartFile(const PartFile&) = delete;
  PartFile& operator=(const PartFile&) = delete;

  void Write(const std::string& bytes) {
    hash_.Update(bytes);
    for (size_t done = 0; done < bytes.size();) {
      const ssize_t count = write(file_, bytes.data() + done, bytes.size() - done);
      if (count < 0 && errno != EINTR) throw SystemProblem("can't write " + path_.string());
      if (count > 0) done += static_cast<size_t>(count);
    }
    size_ += bytes.size();
  }

  // Makes the bytes safe on disk and checks that they are the ones that were meant.
  void Finish(const std::string& sha256) {
    if (fsync(file_) != 0) throw SystemProblem("can't write " + path_.string());
    const std::string found = hash_.Hex();
    if (found != sha256) {
      throw Problem{"data_loss", "the audio came damaged: its hash is " + found + ", not " + sha256, "run again"};
    }
    sha256_ = sha256;
  }

  // Gives the file its name, which nobody may have yet: taking the name fails where it is taken.
  void Place(const fs::path& target) {
    const int name = open(target.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (name < 0) throw SystemProblem("can't write " + target.string());
    close(name);
    if (rename(path_.c_str(), target.c_str()) != 0) throw SystemProblem("can't write " + target.string());
    const int folder = open(path_.parent_path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder >= 0) {
      fsync(folder);
      close(folder);
    }
  }

  const fs::path& path() const { return path_; }
  int64_t size() const { return static_cast<int64_t>(size_); }
  const std::string& sha256() const { return sha256_; }  // empty until the file is whole

  static void DropAll() {  // for the thread of the second Ctrl-C
    std::lock_guard lock(alive_mutex_);
    for (const auto& path : alive_) unlink(path.c_str());
  }

 private:
  inline static std::mutex alive_mutex_;
  inline static std::set<fs::path> alive_;
  fs::path path_;
  int file_ = -1;
  size_t size_ = 0;
  Sha256 hash_;
  std::string sha256_;
};

std::string ReadText(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  if (!file || !(text << file.rdbuf())) throw SystemProblem("can't read " + path);
  return text.str();
}

// --------------------------------------------------------------------------------------------------- command line

struct Wanted {
  std::string address, input, instruction, output, steps_dir, token_file, tls_ca;
  uint32_t seed = 0;
  std::vector<std::string> plan_steps;
};

Wanted ReadArguments(int argc, char** argv) {
  const auto usage = [](const std::string& message) { return Problem{"usage", message, kUsage, kUsageError}; };
  static const option kOptions[] = {{"seed", required_argument, nullptr, 's'},
                                    {"steps-dir", required_argument, nullptr, 'd'},
                                    {"token-file", required_argument, nullptr, 't'},
                                    {"tls-ca", required_argument, nullptr, 'c'},
                                    {"plan-step", required_argument, nullptr, 'p'},
                                    {"help", no_argument, nullptr, 'h'},
                                    {nullptr, 0, nullptr, 0}};
  Wanted wanted;
  opterr = 0;
  for (int found; (found = getopt_long(argc, argv, "", kOptions, nullptr)) != -1;) {
    const std::string value = optarg ? optarg : "";
    if (found == 's') {
      const bool digits = !value.empty() && value.find_first_not_of("0123456789") == std::string::npos;
      if (!digits || value.size() > 10 || std::stoull(value) >> 32) {
        throw usage("--seed needs a whole number below 4294967296");
      }
      wanted.seed = static_cast<uint32_t>(std::stoull(value));
    } else if (found == 'd') {
      wanted.steps_dir = value;
    } else if (found == 't') {
      wanted.token_file = value;
    } else if (found == 'c') {
      wanted.tls_ca = value;
    } else if (found == 'p') {
      wanted.plan_steps.push_back(value);
    } else if (found == 'h') {
      std::cout << kUsage << std::endl;
      std::exit(kOk);
    } else {
      throw usage(std::string("there is no such option, or its value is missing: ") + argv[optind - 1]);
    }
  }
  if (argc - optind != 4) throw usage(Format("four arguments are needed, not %d", argc - optind));
  wanted.address = argv[optind];
  wanted.input = argv[optind + 1];
  wanted.instruction = argv[optind + 2];
  wanted.output = argv[optind + 3];
  static const std::regex kLoopback(R"((localhost|127\.[\d.]+|\[::1\]):\d+)");
  if (!wanted.token_file.empty() && wanted.tls_ca.empty() && !std::regex_match(wanted.address, kLoopback)) {
    throw usage("--token-file needs --tls-ca: the token would cross the network for all to read");
  }
  return wanted;
}

// Fails in the first second rather than the last: nothing is ever overwritten.
void CheckFiles(const Wanted& wanted) {
  if (!fs::is_regular_file(wanted.input)) {
    throw Problem{"audio_not_found", wanted.input + " is not a file", "give the name of a recording"};
  }
  if (fs::exists(fs::symlink_status(wanted.output))) {
    throw Problem{"output_exists", wanted.output + " already exists", "give another name"};
  }
  if (wanted.steps_dir.empty()) return;
  fs::create_directories(wanted.steps_dir);
  if (!fs::is_empty(wanted.steps_dir)) {
    throw Problem{"output_exists", wanted.steps_dir + " is not empty", "give another folder to --steps-dir"};
  }
}

// -------------------------------------------------------------------------------------------------------- the call

// What the three threads tell each other.
class Talk {
 public:
  bool Interrupt() {  // returns whether this is the first time
    std::lock_guard lock(mutex_);
    if (interrupted_) return false;
    interrupted_ = Clock::now();
    changed_.notify_all();
    return true;
  }
  void End() {
    std::lock_guard lock(mutex_);
    ended_ = true;
    changed_.notify_all();
  }
  void Wait() {  // until an interrupt or the end
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return interrupted_ || ended_; });
  }
  std::optional<Clock::time_point> interrupted() {
    std::lock_guard lock(mutex_);
    return interrupted_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<Clock::time_point> interrupted_;
  bool ended_ = false;
};

// Sends all that we ever say. Each Write waits until the one before has gone; false means that the call has ended.
void Send(const Wanted& wanted, std::ifstream& input, Stream& stream, Talk& talk) {
  v1::EditRequest request;
  v1::EditHeader& header = *request.mutable_header();
  header.set_request_id(Uuid4());
  header.set_delivery(wanted.steps_dir.empty() ? v1::DELIVERY_RESULT : v1::DELIVERY_EVERY_STEP);
  header.set_on_disconnect(v1::ON_DISCONNECT_CANCEL);
  v1::JobSpec& spec = *header.mutable_spec();
  spec.set_seed(wanted.seed);
  spec.set_mode(v1::MODE_PRESERVE);
  spec.set_output_encoding(v1::OUTPUT_ENCODING_SOURCE);
  spec.set_source_name(fs::path(wanted.input).filename().string());
  if (wanted.plan_steps.empty()) {
    spec.set_instruction(wanted.instruction);
  } else {
    spec.mutable_plan()->set_instruction(wanted.instruction);
    for (const std::string& text : wanted.plan_steps) spec.mutable_plan()->add_steps()->set_text(text);
  }
  if (!stream.Write(request)) return;

  Sha256 hash;
  while (input && !talk.interrupted()) {
    std::string& data = *request.mutable_data();
    data.resize(kChunkBytes);
    input.read(data.data(), kChunkBytes);
    data.resize(static_cast<size_t>(input.gcount()));
    if (data.empty()) break;
    hash.Update(data);
    if (!stream.Write(request)) return;
  }
  if (!talk.interrupted()) {
    request.mutable_audio_end()->set_sha256(hash.Hex());
    if (!stream.Write(request)) return;
  }
  talk.Wait();  // until the end, in most runs; our half of the stream stays open for a cancel
  if (talk.interrupted()) {
    request.mutable_cancel();
    stream.Write(request);
    stream.WritesDone();
  }
}

// A name like "01-remove-dog-barking.wav", as the command line of SmartDJ itself gives.
std::string StepFileName(int index, const v1::Step& step, const std::string& extension) {
  std::string operation = "step", slug;
  const auto* oneof = v1::Step::descriptor()->FindOneofByName("operation");
  if (const auto* field = step.GetReflection()->GetOneofFieldDescriptor(step, oneof)) {
    operation = field->name();
    const auto& details = step.GetReflection()->GetMessage(step, field);
    const auto* sound = details.GetDescriptor()->FindFieldByName("sound");
    for (const unsigned char c : details.GetReflection()->GetString(details, sound)) {
      if (std::isalnum(c) || c >= 0x80) {
        slug += static_cast<char>(std::tolower(c));
      } else if (!slug.empty() && slug.back() != '-') {
        slug += '-';
      }
    }
    slug.resize(std::min<size_t>(slug.size(), 48));
    while (!slug.empty() && slug.back() == '-') slug.pop_back();
  }
  return Format("%02d-", index + 1) + operation + "-" + (slug.empty() ? "sound" : slug) + extension;
}

// Reads the call to its end; keeps what came.
class Edit {
 public:
  explicit Edit(const Wanted& wanted) : wanted_(wanted) {}

  void Read(Stream& stream) {
    v1::EditResponse response;
    while (stream.Read(&response)) {
      if (response.has_audio()) {
        Receive(response.audio());
        continue;
      }
      const v1::JobEvent& event = response.event();
      Show(event);
      if (event.has_step_started()) started[event.step_started().index()] = event.step_started().step();
      if (event.has_step_finished()) steps.push_back(event.step_finished());
      if (event.has_summary()) summary = event.summary();
      if (event.has_question()) question = event.question();
      if (event.has_failed()) failed = event.failed();
    }
  }

  std::map<int, v1::Step> started;  // by number, for the names of their files
  std::vector<v1::StepFinishedEvent> steps;
  std::unique_ptr<PartFile> part;  // the newest audio; after the last step this is the result
  std::optional<v1::SummaryEvent> summary;
  std::optional<v1::QuestionEvent> question;
  std::optional<v1::FailedEvent> failed;

 private:
  void Receive(const v1::AudioChunk& chunk) {
    const fs::path output = wanted_.output;
    if (chunk.offset_bytes() == 0) {
      part.reset();
      part = std::make_unique<PartFile>(output.parent_path());
    }
    if (!part || part->size() != chunk.offset_bytes()) {
      throw Problem{"data_loss", "the audio came with a gap", "run again"};
    }
    part->Write(chunk.data());
    if (!chunk.last()) return;
    part->Finish(chunk.sha256());
    if (wanted_.steps_dir.empty()) return;
    PartFile copy(wanted_.steps_dir);
    std::ifstream bytes(part->path(), std::ios::binary);
    for (std::string data(kChunkBytes, '\0'); bytes.read(data.data(), kChunkBytes), bytes.gcount() > 0;) {
      copy.Write(data.substr(0, static_cast<size_t>(bytes.gcount())));
    }
    copy.Finish(chunk.sha256());
    const int index = chunk.step_index();
    copy.Place(fs::path(wanted_.steps_dir) / StepFileName(index, started[index], output.extension().string()));
  }

  const Wanted& wanted_;
};

std::string Report(const std::string& sha256, const std::string& audio_sha256, const Edit& edit,
                   std::optional<double> cancel_to_end_s) {
  const auto text = [](const std::string& value) { return value.empty() ? "null" : Quoted(value); };
  std::string json = "{\"result_sha256\":" + text(sha256) + ",\"audio_sha256\":" + text(audio_sha256) + ",\"steps\":[";
  for (const auto& step : edit.steps) {
    if (json.back() == '}') json += ',';
    json += Format("{\"index\":%d,\"text\":", step.index()) + Quoted(step.step().text()) +
            ",\"sha256\":" + Quoted(step.audio().sha256()) +
            ",\"audio_sha256\":" + Quoted(step.audio().audio_sha256()) + Format(",\"elapsed_s\":%g}", step.elapsed_s());
  }
  return json + "],\"cancel_to_end_s\":" + (cancel_to_end_s ? Format("%.3f", *cancel_to_end_s) : "null") + "}";
}

int Run(const Wanted& wanted, Talk& talk) {
  CheckFiles(wanted);
  std::ifstream input(wanted.input, std::ios::binary);
  if (!input) throw SystemProblem("can't read " + wanted.input);

  std::shared_ptr<grpc::ChannelCredentials> credentials = grpc::InsecureChannelCredentials();
  if (!wanted.tls_ca.empty()) {
    grpc::SslCredentialsOptions options;
    options.pem_root_certs = ReadText(wanted.tls_ca);
    credentials = grpc::SslCredentials(options);
  }
  grpc::ClientContext context;
  if (!wanted.token_file.empty()) {
    std::string token = ReadText(wanted.token_file);
    token.erase(token.find_last_not_of(" \r\n\t") + 1);
    context.AddMetadata("authorization", "Bearer " + token);
  }
  const auto stub = v1::EditService::NewStub(grpc::CreateChannel(wanted.address, credentials));
  const auto stream = stub->Edit(&context);

  Edit edit(wanted);
  std::thread sender(Send, std::cref(wanted), std::ref(input), std::ref(*stream), std::ref(talk));
  std::optional<Problem> problem;
  try {
    edit.Read(*stream);
  } catch (const Problem& caught) {  // a full disk, damaged audio: the work is of no use any more
    problem = caught;
    context.TryCancel();
    for (v1::EditResponse rest; stream->Read(&rest);) continue;
  }
  talk.End();
  sender.join();
  const grpc::Status status = stream->Finish();
  screen.Rest();

  if (const auto interrupted = talk.interrupted()) {
    screen.Say("cancelled");
    std::cout << Report("", "", edit, std::chrono::duration<double>(Clock::now() - *interrupted).count()) << std::endl;
    return kCancelled;
  }
  if (problem) throw *problem;
  if (!status.ok()) throw ProblemOf(status);
  if (edit.failed) throw ProblemOf(edit.failed->error());
  if (edit.question) {
    screen.Say(edit.question->text());
    for (const std::string& choice : edit.question->choices()) screen.Say("  - " + choice);
    return kQuestion;
  }
  if (!edit.summary || !edit.part || edit.part->sha256() != edit.summary->result().sha256()) {
    throw Problem{"data_loss", "the server ended without the result", "run again"};
  }
  edit.part->Place(wanted.output);
  screen.Say("wrote " + wanted.output + Format(" (%zu step(s), %.1f s, %.2f × real time)", edit.steps.size(),
                                               edit.summary->elapsed_s(), edit.summary->realtime_factor()));
  const auto& result = edit.summary->result();
  std::cout << Report(result.sha256(), result.audio_sha256(), edit, std::nullopt) << std::endl;
  return kOk;
}

int main(int argc, char** argv) {
  // Blocked here, so in every thread that gRPC starts: only the thread below receives them.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGINT, SIG_DFL);  // a shell that starts us in the background has it ignored
  Talk talk;
  std::thread([&signals, &talk] {
    for (int number; sigwait(&signals, &number) == 0;) {
      if (!talk.Interrupt()) {  // the second time: leave at once, but leave nothing lying about
        PartFile::DropAll();
        _exit(kCancelled);
      }
      screen.Say("cancelling … (Ctrl-C again to leave at once)");
    }
  }).detach();

  int exit_code = kError;
  try {
    exit_code = Run(ReadArguments(argc, argv), talk);
  } catch (const Problem& problem) {
    screen.Rest();
    screen.Say("error: " + problem.code + ": " + problem.message);
    if (!problem.hint.empty()) screen.Say((problem.hint == kUsage ? "" : "hint: ") + problem.hint);
    exit_code = problem.exit_code;
  } catch (const std::exception& error) {
    screen.Rest();
    screen.Say(std::string("error: ") + error.what());
  }
  return exit_code;
}
