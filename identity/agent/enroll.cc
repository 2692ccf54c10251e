#include "identity/agent/enroll.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/crypto.h>
#include <poll.h>
#include <pwd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <tl/expected.hpp>
#include <vector>

#include "identity/agent/authority_link.h"
#include "identity/agent/node_folder.h"
#include "identity/agent_client.h"
#include "identity/certificate.h"
#include "identity/file.h"
#include "identity/rpc/socket_address.h"
#include "policy/trusted_file.h"

namespace inlay::identity::agent {
namespace {

constexpr std::size_t kMaxToken = 4096;
constexpr std::string_view kDefaultPort = "8443";
constexpr std::string_view kMark = "# Made by inlay enroll; inlay leave removes it.\n";

using Failure = tl::unexpected<std::string>;

int complain(const char *command, const std::string &message) {
  fmt::print(stderr, "inlay {}: {}\n", command, message);
  return 1;
}

bool is_root() { return ::geteuid() == 0; }

std::string home_folder(const char *variable, const char *below_home) {
  const char *const set = ::secure_getenv(variable);
  if (set != nullptr && *set == '/') return set;
  const char *const home = ::secure_getenv("HOME");
  return std::string(home != nullptr ? home : "") + below_home;
}

std::string state_folder(const std::string &given) {
  if (!given.empty()) return std::filesystem::absolute(given).lexically_normal();
  return is_root() ? "/var/lib/inlay/node"
                   : home_folder("XDG_STATE_HOME", "/.local/state") + "/inlay/node";
}

std::string config_file(const std::string &given) {
  if (!given.empty()) return std::filesystem::absolute(given).lexically_normal();
  return is_root() ? "/etc/inlay/agent.toml"
                   : home_folder("XDG_CONFIG_HOME", "/.config") + "/inlay/agent.toml";
}

struct Url {
  std::string where;  // HOST:PORT
  std::string token;  // "" = none in it
};

tl::expected<Url, std::string> parse_url(std::string_view text) {
  Url url;
  if (const std::size_t hash = text.find('#'); hash != text.npos) {
    url.token = text.substr(hash + 1);
    text = text.substr(0, hash);
  }
  constexpr std::string_view kScheme = "https://";
  if (text.starts_with(kScheme)) text.remove_prefix(kScheme.size());
  while (text.ends_with('/')) text.remove_suffix(1);
  const bool has_port =
      text.rfind(':') != text.npos && (!text.starts_with('[') || !text.ends_with(']'));
  url.where = fmt::format("{}{}{}", text, has_port ? "" : ":", has_port ? "" : kDefaultPort);
  const auto place = rpc::parse_host_port(url.where);
  if (!place || place->host.empty()) {
    return Failure(fmt::format("\"{}\" is no address of an authority; write https://HOST:PORT",
                               printable(text)));
  }
  return url;
}

// One line; what is around it is not looked at.
tl::expected<std::string, std::string> read_token(const std::string &file) {
  policy::UniqueFd opened;
  int fd = STDIN_FILENO;
  if (!file.empty()) {
    opened = policy::UniqueFd(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
    if (!opened) return Failure(fmt::format("cannot read {}: {}", file, std::strerror(errno)));
    fd = opened.get();
  } else if (::isatty(fd) != 0) {
    fmt::print(stderr, "Paste the token that inlay ca token printed, and press Enter: ");
  }
  std::string text;
  std::array<char, 256> buffer;
  while (text.size() < kMaxToken && text.find('\n') == text.npos) {
    const ssize_t got = ::read(fd, buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    text.append(buffer.data(), static_cast<std::size_t>(got));
  }
  OPENSSL_cleanse(buffer.data(), buffer.size());
  text.resize(std::min(text.size(), text.find('\n')));
  const std::size_t first = text.find_first_not_of(" \t\r");
  if (first == text.npos) {
    return Failure("there is no token: give it on standard input, or with --token-file");
  }
  return text.substr(first, text.find_last_not_of(" \t\r") + 1 - first);
}

std::string hostname() {
  std::array<char, 256> name{};
  ::gethostname(name.data(), name.size() - 1);
  return name.data();
}

tl::expected<bool, std::string> write_config(const std::string &path, std::string_view trust_domain,
                                             const std::string &state) {
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), error);
  const policy::UniqueFd fd(
      ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644));
  if (!fd && errno == EEXIST) return false;
  const std::string text = fmt::format("{}trust_domain = \"{}\"\n\n[source]\nenrolled = \"{}\"\n",
                                       kMark, trust_domain, state);
  if (!fd || ::write(fd.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
    return Failure(fmt::format("cannot write {}: {}", path, std::strerror(errno)));
  }
  return true;
}

std::string own_name() {
  const passwd *const entry = ::getpwuid(::geteuid());
  return entry == nullptr ? "" : entry->pw_name;
}

bool systemd_runs() { return ::access("/run/systemd/system", F_OK) == 0; }

// The exit code; its output goes where ours does.
int systemctl(std::vector<std::string> words) {
  if (!is_root()) words.insert(words.begin(), "--user");
  words.insert(words.begin(), "systemctl");
  std::vector<char *> arguments;
  for (std::string &word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  const pid_t child = ::fork();
  if (child == 0) {
    ::execvp("systemctl", arguments.data());
    ::_exit(127);
  }
  int status = 0;
  if (child < 0 || ::waitpid(child, &status, 0) != child || !WIFEXITED(status)) return 127;
  return WEXITSTATUS(status);
}

// What the agent and its unit made, as far as nobody has put anything else there.
void remove_empty_folders(const std::string &state, const std::string &config) {
  std::vector<std::filesystem::path> folders = {state};
  for (const std::string &path : {state, config}) {
    const auto parent = std::filesystem::path(path).parent_path();
    if (parent.filename() == "inlay") folders.push_back(parent);
  }
  if (is_root()) folders.emplace_back("/var/log/inlay");
  for (const std::filesystem::path &folder : folders) ::rmdir(folder.c_str());
}

// One that nobody's service manager started: it would go on as what the machine was. "" when there
// is none with this configuration, else what became of it.
std::string stop_agent(const std::string &config) {
  constexpr auto kPatience = std::chrono::seconds(10);
  auto agent = AgentClient::connect(standard_agent_sockets());
  if (!agent) return "";
  const auto answer = agent->ask(AgentFrame::status, "");
  if (!answer) return "";
  const auto status = nlohmann::json::parse(answer->bytes, nullptr, false);
  const auto *const about =
      status.is_object() && status.contains("agent") ? &status["agent"] : nullptr;
  if (about == nullptr || about->value("configuration", "") != config) return "";
  const pid_t pid = about->value("pid", 0);
  if (pid <= 0 || ::kill(pid, SIGTERM) != 0) {
    return fmt::format("the agent still runs as process {}: stop it", pid);
  }
  pollfd end{.fd = agent->fd(), .events = POLLRDHUP, .revents = 0};
  ::poll(&end, 1, static_cast<int>(std::chrono::milliseconds(kPatience).count()));
  return fmt::format("stopped the agent, process {}", pid);
}

}  // namespace

int enroll(const EnrollOptions &options) {
  std::signal(SIGPIPE, SIG_IGN);
  auto url = parse_url(options.url);
  if (!url) return complain("enroll", url.error());
  std::string token_text = url->token;
  if (!token_text.empty()) {
    fmt::print(stderr,
               "inlay enroll: warning: a token in the command line is seen by every user of this "
               "machine, and kept by the shell; give it on standard input\n");
  } else {
    auto read = read_token(options.token_file);
    if (!read) return complain("enroll", read.error());
    token_text = std::move(*read);
  }
  const auto token = parse_enrolment_token(token_text);
  OPENSSL_cleanse(token_text.data(), token_text.size());
  if (!token) return complain("enroll", token.error());

  const std::string state = state_folder(options.state);
  const std::string config = config_file(options.config);
  if (::access((state + "/node.pem").c_str(), F_OK) == 0) {
    return complain("enroll", fmt::format("this machine is enrolled already ({}); inlay leave "
                                          "takes that back",
                                          state));
  }
  // Before the token is spent: it would be gone for a folder that cannot be written.
  std::error_code made;
  std::filesystem::create_directories(state, made);
  if (made || ::access(state.c_str(), W_OK) != 0) {
    return complain("enroll", fmt::format("cannot write to {}: {}", state,
                                          made ? made.message() : std::strerror(errno)));
  }
  ::chmod(state.c_str(), 0700);

  auto key = enrolling_key(state, token->secret_digest(), {});
  if (!key) return complain("enroll", key.error());
  AuthorityLink link;
  const auto node = link.enroll(url->where, *token, hostname(), std::move(*key));
  // Refused: the key is of no use. Anything else: the token may be spent, and only with this key
  // it is good once more.
  if (!node && node.error().code == grpc::StatusCode::PERMISSION_DENIED)
    forget_enrolling_key(state);
  if (!node) return complain("enroll", node.error().message);
  if (const auto saved = save_node(state, *node); !saved) return complain("enroll", saved.error());
  forget_enrolling_key(state);
  const auto written = write_config(config, node->svid.id.trust_domain(), state);
  if (!written) return complain("enroll", written.error());

  fmt::print("this machine is now {}\n", node->svid.id.uri());
  fmt::print("  its SVID is good until {}, and is renewed by itself\n",
             time_text(node->svid.not_after));
  fmt::print("  state: {}    configuration: {}{}\n", state, config,
             *written ? "" : " (it was there, and is as it was)");
  if (!*written) {
    fmt::print("  for it to be used, {} needs: [source] enrolled = \"{}\"\n", config, state);
  }
  const bool by_systemd = options.start && *written && options.config.empty() && systemd_runs();
  if (by_systemd && systemctl({"enable", "--now", "inlay-agent.service"}) == 0) {
    const std::string user = own_name();
    const bool with_machine =
        is_root() || ::access(("/var/lib/systemd/linger/" + user).c_str(), F_OK) == 0;
    fmt::print("  the agent runs, and starts with the {}\n", with_machine ? "machine" : "session");
    if (!with_machine)
      fmt::print("next: loginctl enable-linger {}  (or it ends with the session)\n", user);
    fmt::print("{}inlay status\n", with_machine ? "next: " : "      ");
  } else {
    fmt::print("next: inlay agent --config {} &\n      inlay status\n", config);
  }
  return 0;
}

int leave(const LeaveOptions &options) {
  const std::string state = state_folder(options.state);
  const std::string config = config_file(options.config);
  if (options.config.empty() && systemd_runs()) {
    std::vector<std::string> units = {"disable", "--now", "inlay-agent.service"};
    if (is_root()) units.emplace_back("inlay-agent.socket");
    systemctl(std::move(units));
  }
  const std::string stopped = stop_agent(config);
  std::vector<std::string> gone;
  if (const auto text = read_file(config, 1 << 20); text && text->bytes.starts_with(kMark)) {
    if (::unlink(config.c_str()) == 0) gone.push_back(config);
  }
  for (const char *name : {"node.pem", "authority.json", "granted.pb", "enrolling.pem"}) {
    for (const char *half_written : {"", ".new"}) {
      const std::string path = fmt::format("{}/{}{}", state, name, half_written);
      if (::unlink(path.c_str()) == 0) gone.push_back(path);
      if (::access(path.c_str(), F_OK) == 0) {
        return complain("leave", fmt::format("cannot remove {}: {}", path, std::strerror(errno)));
      }
    }
  }
  remove_empty_folders(state, config);
  if (gone.empty()) return complain("leave", "this machine is not enrolled: there is no " + state);
  if (!stopped.empty()) fmt::print("{}\n", stopped);
  for (const std::string &path : gone) fmt::print("removed {}\n", path);
  fmt::print(
      "this machine has left; what it was issued ends by itself, or at once with inlay ca "
      "revoke at the authority\n");
  return 0;
}

}  // namespace inlay::identity::agent
