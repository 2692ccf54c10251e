#include "identity/agent/agent.h"

#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <ctime>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

#include "identity/agent/attestor.h"
#include "identity/agent/audit_log.h"
#include "identity/agent/authority_source.h"
#include "identity/agent/config.h"
#include "identity/agent/enrolled_source.h"
#include "identity/agent/est_source.h"
#include "identity/agent/files_source.h"
#include "identity/agent/granted_entry.h"
#include "identity/agent/identities.h"
#include "identity/agent/listener.h"
#include "identity/agent/metrics.h"
#include "identity/agent/metrics_server.h"
#include "identity/agent/server.h"
#include "identity/agent/shim_service.h"
#include "identity/agent/workload_api.h"
#include "identity/agent/workload_api_source.h"
#include "identity/agent_address.h"
#include "identity/agent_protocol.h"
#include "identity/rpc/service_manager.h"

namespace inlay::identity::agent {
namespace {

using Level = AuditLog::Level;

int complain(const std::string &message) {
  fmt::print(stderr, "inlay agent: {}\n", message);
  return 1;
}

// All keys of the machine are in this memory: no core dumps, and no debugger of the same user.
void protect_memory() {
  prctl(PR_SET_DUMPABLE, 0);
  const rlimit none{0, 0};
  setrlimit(RLIMIT_CORE, &none);
}

// As many descriptors as may be; how many that is.
std::size_t raise_descriptors() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 1024;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  return std::min<std::size_t>(limit.rlim_cur, 1u << 20);
}

policy::UniqueFd signals() {
  std::signal(SIGPIPE, SIG_IGN);
  sigset_t set;
  sigemptyset(&set);
  for (int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&set, signal);
  // Before there are threads: they inherit it.
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  return policy::UniqueFd(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
}

// Where libinlay.so writes what it has to say in programs of any user: root alone can make it. Not
// for an agent whose socket is elsewhere.
void make_log_folder(const std::string &socket) {
  constexpr const char *kFolder = "/run/inlay/log";
  if (geteuid() != 0 || socket != kAgentSocket) return;
  if (mkdir(kFolder, 0700) == 0) chmod(kFolder, 01777);  // mkdir obeys the umask
}

tl::expected<std::unique_ptr<Source>, std::string> open_source(const Config &config,
                                                               const std::vector<uid_t> &owners) {
  const SourceSettings &source = config.source;
  if (!source.authority.empty()) {
    return open_authority(
               {.folder = source.authority, .lifetime = config.svid_lifetime, .owners = owners})
        .map_error([](const SourceFailure &failure) { return failure.message; });
  }
  if (!source.enrolled.empty()) {
    return open_enrolled(
               {.folder = source.enrolled, .trust_domain = config.trust_domain, .owners = owners})
        .map_error([](const SourceFailure &failure) { return failure.message; });
  }
  if (!source.est.url.empty()) {
    EstSettings est = source.est;
    est.owners = owners;
    return open_est(std::move(est)).map_error([](const SourceFailure &failure) {
      return failure.message;
    });
  }
  if (!source.files.svids.empty()) return open_files(source.files);
  return parse_agent_address(source.workload_api)
      .map([&](const std::string &socket) {
        return open_workload_api(
            {.socket = socket, .trust_domain = config.trust_domain, .owners = owners});
      })
      .map_error([](const std::string &complaint) { return "workload_api: " + complaint; });
}

// What only a new start can change.
bool needs_restart(const Config &old, const Config &fresh) {
  auto paths = [](const FilesSettings &files) {
    std::vector<std::string> out = files.crls;
    for (const SvidFiles &svid : files.svids)
      out.insert(out.end(), {svid.svid, svid.key, svid.bundle});
    for (const auto &[domain, path] : files.bundles) out.insert(out.end(), {domain, path});
    return out;
  };
  return old.trust_domain != fresh.trust_domain || old.socket != fresh.socket ||
         old.source.authority != fresh.source.authority ||
         old.source.enrolled != fresh.source.enrolled ||
         old.source.workload_api != fresh.source.workload_api ||
         old.source.est != fresh.source.est ||
         paths(old.source.files) != paths(fresh.source.files) ||
         old.svid_lifetime != fresh.svid_lifetime || old.metrics != fresh.metrics ||
         old.signatures != fresh.signatures;
}

class Agent {
 public:
  Agent(Config config, std::vector<uid_t> owners, std::unique_ptr<Source> source, Listener listener,
        std::size_t descriptors);
  int run(int signal_fd);
  AuditLog &log() { return audit_; }

 private:
  WorkloadApiHost api_host();
  void take_signals(int fd);
  void reload();
  void take_granted();
  std::vector<SpiffeId> put_together();
  std::string summary() const;

  const std::vector<uid_t> owners_;
  const std::time_t started_ = std::time(nullptr);
  rpc::ServiceManager manager_;
  Counters counters_;
  AuditLog audit_{counters_};
  Attestor attestor_;
  std::mutex entries_mutex_;                     // guards the next two
  std::shared_ptr<const Config> configuration_;  // without what the source grants
  std::vector<GrantedEntry> granted_;
  std::mutex mutex_;  // guards the next three
  std::string reload_error_;
  std::vector<std::string> left_out_;  // entries that the source grants and that cannot be in force
  bool ended_ = false;                 // nobody is told of changes any more
  Identities identities_;
  Listener listener_;
  std::unique_ptr<WorkloadApi> api_;
  ShimService service_;
  Server server_;
};

Agent::Agent(Config config, std::vector<uid_t> owners, std::unique_ptr<Source> source,
             Listener listener, std::size_t descriptors)
    : owners_(std::move(owners)),
      attestor_(std::make_shared<const Config>(config)),
      configuration_(attestor_.config()),
      identities_(std::move(source), config.ids()),
      listener_(std::move(listener)),
      api_(std::make_unique<WorkloadApi>(api_host(), WorkloadApiLimits::of(descriptors))),
      service_({.attestor = attestor_,
                .audit = audit_,
                .counters = counters_,
                .view = [this] { return identities_.view(); },
                .adopt = [this](policy::UniqueFd fd,
                                const Caller &peer) { api_->adopt(std::move(fd), peer); },
                .status =
                    [this](StatusInput &input) {
                      input.source = identities_.source_name();
                      input.socket = listener_.path();
                      input.started = started_;
                      std::lock_guard lock(mutex_);
                      input.configuration_error = reload_error_;
                      input.left_out = left_out_;
                    }},
               {.of_a_process = config.signatures, .of_a_user = config.signatures * 4}),
      server_(listener_, service_, SeatLimits::of(descriptors),
              std::clamp<std::size_t>(std::thread::hardware_concurrency(), 2, 16)) {
  identities_.on_change([this] {
    take_granted();
    std::lock_guard lock(mutex_);
    if (ended_) return;
    server_.changed();
    api_->changed();
  });
}

WorkloadApiHost Agent::api_host() {
  WorkloadApiHost host;
  host.attest = [this](const Caller &caller, int pidfd) -> tl::expected<Permitted, NotPermitted> {
    Attestation found = attestor_.attest(caller, pidfd);
    if (found.entry == nullptr) {
      return tl::unexpected(NotPermitted{found.refused.refusal, std::move(found.refused.told)});
    }
    if (!found.entry->workload_api) {
      return tl::unexpected(NotPermitted{AgentRefusal::no_entry,
                                         "the entry of this process gives no private key away"});
    }
    return Permitted{.id = found.entry->id, .hint = found.entry->hint};
  };
  host.view = [this] { return identities_.view(); };
  host.obtain_jwt = [this](const SpiffeId &id, const std::vector<std::string> &audience) {
    return identities_.obtain_jwt(id, audience);
  };
  host.cut_off = [this](const Caller &caller, std::string_view why) {
    counters_.refused(AgentRefusal::rate_limited);
    audit_.write({.event = "cut-off",
                  .caller = caller,
                  .reason = name(AgentRefusal::rate_limited),
                  .detail = why});
  };
  host.audit = [this](const WorkloadApiEvent &event) {
    if (event.refusal) counters_.refused(*event.refusal);
    audit_.write({.event = event.status == "OK" ? "fetched" : "refused",
                  .caller = event.caller,
                  .request = event.method,
                  .spiffe_id = event.spiffe_id,
                  .reason = event.refusal ? name(*event.refusal) : std::string_view(),
                  .detail = event.told});
  };
  return host;
}

std::string Agent::summary() const {
  auto config = attestor_.config();
  return fmt::format("{} entries of {}, SVIDs from {}", config->entries.size(),
                     config->trust_domain, identities_.source_name());
}

int Agent::run(int signal_fd) {
  std::unique_ptr<MetricsServer> metrics;
  if (const std::string listen = attestor_.config()->metrics; !listen.empty()) {
    auto started = MetricsServer::start(listen, [this] {
      return metrics_text(*identities_.view(), counters_, identities_.source_name());
    });
    if (!started) return complain(started.error());
    metrics = *std::move(started);
  }
  identities_.start();
  server_.watch(signal_fd, [this, signal_fd] { take_signals(signal_fd); });
  if (manager_.watchdog() > 0) {
    server_.every(std::max<std::int64_t>(manager_.watchdog() / 2, 1), [this] { manager_.alive(); });
  }
  audit_.note(Level::info, fmt::format("inlay-agent " INLAY_VERSION " listens at {}: {}",
                                       listener_.path(), summary()));
  manager_.ready(summary());
  server_.run();
  manager_.stopping();
  {
    std::lock_guard lock(mutex_);
    ended_ = true;
  }
  listener_.remove();
  audit_.note(Level::info, "inlay-agent ends");
  return 0;
}

void Agent::take_signals(int fd) {
  signalfd_siginfo info;
  while (read(fd, &info, sizeof info) == sizeof info) {
    if (info.ssi_signo == SIGHUP) {
      manager_.reloading();
      reload();
      manager_.ready(summary());
    } else {
      server_.stop();
    }
  }
}

// What the configuration and the source say comes into force together. The IDs there are then.
// Under entries_mutex_.
std::vector<SpiffeId> Agent::put_together() {
  std::vector<std::string> left_out;
  auto whole = std::make_shared<const Config>(with_granted(*configuration_, granted_, left_out));
  for (const std::string &why : left_out) audit_.note(Level::warning, why);
  {
    std::lock_guard lock(mutex_);
    left_out_ = std::move(left_out);
  }
  attestor_.use(whole);
  return whole->ids();
}

void Agent::take_granted() {
  auto view = identities_.view();
  std::lock_guard lock(entries_mutex_);
  if (view->trust.granted == granted_) return;
  granted_ = view->trust.granted;
  identities_.want(put_together());
}

// A configuration that is not good changes nothing, and is named until a good one comes.
void Agent::reload() {
  auto old = [this] {
    std::lock_guard lock(entries_mutex_);
    return configuration_;
  }();
  auto fresh = load_config(old->file, owners_);
  std::string error;
  if (!fresh) {
    error = fresh.error().text();
  } else if (needs_restart(*old, *fresh)) {
    error = fmt::format(
        "{}: trust_domain, socket, [source], [svid], [metrics] and [limits] are taken at the start "
        "alone: "
        "restart the agent",
        old->file);
  } else if (auto opened = audit_.open(fresh->log_file); !opened) {
    error = opened.error();
  }
  {
    std::lock_guard lock(mutex_);
    reload_error_ = error;
  }
  if (!error.empty()) return audit_.note(Level::error, "the old configuration stays: " + error);
  {
    std::lock_guard lock(entries_mutex_);
    configuration_ = std::make_shared<const Config>(*std::move(fresh));
    identities_.want(put_together());
  }
  server_.changed();
  api_->changed();
  audit_.note(Level::info, "reloaded: " + summary());
}

}  // namespace

int run_agent(const std::string &config_file, const std::vector<uid_t> &owners) {
  protect_memory();
  policy::UniqueFd signal_fd = signals();
  const std::size_t descriptors = raise_descriptors();
  auto config = load_config(config_file, owners);
  if (!config) return complain(config.error().text());
  auto source = open_source(*config, owners);
  if (!source) return complain(source.error());
  auto inherited = Listener::inherited();
  if (!inherited) return complain(inherited.error());
  std::optional<Listener> listener = std::move(*inherited);
  if (!listener) {
    auto opened = Listener::open(config->socket);
    if (!opened) return complain(opened.error());
    listener.emplace(*std::move(opened));
  }
  make_log_folder(listener->path());
  const std::string log_file = config->log_file;
  Agent agent(*std::move(config), owners, *std::move(source), *std::move(listener), descriptors);
  if (auto opened = agent.log().open(log_file); !opened) return complain(opened.error());
  return agent.run(signal_fd.get());
}

}  // namespace inlay::identity::agent
