// inlay ca serve.
#include <fmt/format.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <functional>

#include "identity/ca/audit_log.h"
#include "identity/ca/command_words.h"
#include "identity/ca/server.h"
#include "identity/rpc/service_manager.h"
#include "policy/trusted_file.h"

namespace inlay::identity::ca {
namespace {

// The authority's keys are in this memory: no core dumps, and no debugger of the same user.
void protect_memory() {
  prctl(PR_SET_DUMPABLE, 0);
  const rlimit none{0, 0};
  setrlimit(RLIMIT_CORE, &none);
}

policy::UniqueFd signals() {
  std::signal(SIGPIPE, SIG_IGN);
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&set, signal);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  return policy::UniqueFd(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
}

void raise_descriptors() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

// SIGHUP: what daemons do at it when a log was moved away. The configuration is taken at the start.
void open_again(AuditLog &audit, const std::string &file) {
  if (auto opened = audit.open(file); !opened) {
    audit.note(AuditLog::Level::error, "the log stays where it was: " + opened.error());
  } else {
    audit.note(AuditLog::Level::info,
               "the log is open anew; a changed configuration is taken by a new start alone");
  }
}

// Until SIGTERM or SIGINT. What is in force is asked for under the lock of the thread that looks at
// the store, so that a watchdog notices when that is stuck.
void serve_until_told(int signal_fd, const Server &server, const rpc::ServiceManager &manager,
                      const std::function<void()> &hang_up) {
  const std::int64_t often = manager.watchdog() / 2;
  const int timeout = often > 0 ? static_cast<int>(std::clamp<std::int64_t>(often, 1, 60'000)) : -1;
  while (true) {
    signalfd_siginfo info;
    if (::read(signal_fd, &info, sizeof info) == sizeof info) {
      if (info.ssi_signo != SIGHUP) return;
      hang_up();
      continue;
    }
    pollfd waiting{.fd = signal_fd, .events = POLLIN, .revents = 0};
    ::poll(&waiting, 1, timeout);
    if (often > 0 && server.in_force() != nullptr) manager.alive();
  }
}

// A server that cannot start says so where its refusals are looked for, too.
State open_state_or_note(const Words &options) {
  try {
    return open_state(options);
  } catch (const Failure &failure) {
    AuditLog audit;
    const auto config = load_config(options.one_or("--config", "/etc/inlay/ca.toml"));
    if (config && !config->log_file.empty() && audit.open(config->log_file)) {
      audit.note(AuditLog::Level::error, failure.message);
    }
    throw;
  }
}

}  // namespace

int serve_command(const std::vector<std::string> &words) {
  const Words options(words, 1, {}, {});
  protect_memory();
  const policy::UniqueFd signal_fd = signals();
  raise_descriptors();
  const rpc::ServiceManager manager;  // before there are threads: it changes the environment
  State state = open_state_or_note(options);
  AuditLog audit;
  if (auto opened = audit.open(state.config.log_file); !opened) throw Failure{opened.error()};

  if (const std::string told = state.beginning(); !told.empty()) {
    audit.note(AuditLog::Level::warning, told);
  }

  ServerSettings settings;
  settings.listen = state.config.listen;
  settings.issuing = {.trust_domain = state.config.trust_domain,
                      .node_lifetime = state.config.node_lifetime,
                      .svid_lifetime = state.config.svid_lifetime,
                      .jwt_lifetime = state.config.jwt_lifetime,
                      .enrolments_per_second = state.config.enrolments_per_second,
                      .requests_per_second = state.config.requests_per_second};
  settings.connections = state.config.connections;
  settings.connections_of_an_address = state.config.connections_of_an_address;
  settings.in_force = {.rotation = state.config.rotation, .upstream = state.config.upstream};
  settings.web = {.bundle = state.config.bundle_endpoint, .est = state.config.est};
  settings.federations = state.config.federations;
  auto server = Server::start(
      std::move(settings),
      {.store = state.store,
       .seal = state.seal,
       .audit = [&](const AuditRecord &event) { audit.write(event); },
       .note = [&](const std::string &problem) { audit.note(AuditLog::Level::error, problem); }});
  if (!server) throw Failure{server.error()};
  std::string where;
  for (const std::string &address : (*server)->addresses()) {
    where += (where.empty() ? "" : ", ") + address;
  }
  for (const std::string &address : (*server)->web_addresses()) where += ", " + address;
  audit.note(AuditLog::Level::info, fmt::format("inlay-ca " INLAY_VERSION " of {} listens at {}",
                                                state.config.trust_domain, where));
  manager.ready(fmt::format("serves {} at {}", state.config.trust_domain, where));
  serve_until_told(signal_fd.get(), **server, manager,
                   [&] { open_again(audit, state.config.log_file); });
  manager.stopping();
  server->reset();
  audit.note(AuditLog::Level::info, "inlay-ca ends");
  return 0;
}

}  // namespace inlay::identity::ca
