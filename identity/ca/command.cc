#include "identity/ca/command.h"

#include <fmt/format.h>
#include <pwd.h>
#include <syslog.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <ctime>

#include "identity/ca/command_words.h"
#include "identity/certificate.h"

namespace inlay::identity::ca {
namespace {

constexpr int kExitFailed = 1, kExitUsage = 2;

constexpr std::string_view kHelp =
    R"(Usage: inlay ca serve [--config FILE]
       inlay ca token --node NAME [--ttl TIME]
       inlay ca entry add --id SPIFFE-ID --node NAME --selector KEY=VALUE... [OPTION...]
       inlay ca entry list | entry remove ID
       inlay ca agents [list | approve NAME]
       inlay ca revoke --node NAME | --serial NUMBER [--reason TEXT]
       inlay ca rotate prepare | activate [--now] | taint | revoke [--force] | status
       inlay ca bundle show | set TRUST-DOMAIN FILE | list | remove TRUST-DOMAIN

The authority of a trust domain. The commands but serve work on its state directly, whether or not a
server runs; a server notices within a second.

serve    enrols machines and signs for their agents, until SIGTERM; the first start makes the keys
token    what a new machine is given to join with: prints it alone, good once, for 10 minutes
entry    which SPIFFE ID a program gets, on which machines: NAME may be a pattern, as web-*
         --policy FILE        its policy, as inlay.toml(5)
         --federates-with TD  the bundle of another trust domain goes with it; may be repeated
         --ttl TIME           how long its SVIDs live
         --hint TEXT          for clients of the Workload API
         --no-workload-api    keep its key from the Workload API
         --refuse-traced      refuse a process that is being traced
agents   the machines that have joined; approve lets one back whose own SVID has ended
revoke   a machine with all its SVIDs, or one SVID
rotate   replaces the root, in steps: a new one is prepared (everybody learns of it), activated (it
         signs), the old one tainted (what it signed is replaced) and revoked (nobody trusts it);
         status names the machines that still rest on an old one, and revoke refuses while there are
         any: --force cuts them off
bundle   show prints this trust domain's; the others are about those of other trust domains

  --config FILE   the authority's configuration; /etc/inlay/ca.toml when it is not given
  --json          for programs

Exit codes: 0 good, 1 failed, 2 usage. More in inlay-ca(8).
)";

constexpr const char *kCommands[] = {"serve",  "token",  "entry", "agents",
                                     "revoke", "rotate", "bundle"};
constexpr int (*kRun[])(const std::vector<std::string> &) = {
    serve_command,  token_command,  entry_command, agents_command,
    revoke_command, rotate_command, bundle_command};

int complain(const std::string &message, int code) {
  fmt::print(stderr, "inlay ca: {}\n", message);
  return code;
}

int dispatch(const std::vector<std::string> &words) {
  if (words.empty()) throw Usage{"nothing to do"};
  if (std::find(words.begin(), words.end(), "--help") != words.end() || words[0] == "-h") {
    fmt::print("{}", kHelp);
    return 0;
  }
  if (words[0] == "--version") {
    fmt::print("inlay-ca " INLAY_VERSION "\n");
    return 0;
  }
  for (std::size_t i = 0; i < std::size(kCommands); ++i) {
    if (words[0] == kCommands[i]) return kRun[i](words);
  }
  throw Usage{fmt::format("there is no command '{}'", words[0])};
}

}  // namespace

Words::Words(const std::vector<std::string> &words, std::size_t from,
             std::initializer_list<std::string_view> with_value,
             std::initializer_list<std::string_view> flags, std::size_t places) {
  const auto among = [](auto &names, const std::string &name) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  for (std::size_t i = from; i < words.size(); ++i) {
    std::string name = words[i];
    if (!name.starts_with("--") && places_.size() < places) {
      places_.push_back(std::move(name));
      continue;
    }
    std::optional<std::string> value;
    if (const std::size_t equals = name.find('='); name.starts_with("--") && equals != name.npos) {
      value = name.substr(equals + 1);
      name.resize(equals);
    }
    if ((name == "--json" || among(flags, name)) && !value) {
      values_[name].push_back("");
    } else if (name != "--config" && !among(with_value, name)) {
      throw Usage{fmt::format("unknown word '{}'", name)};
    } else if (value) {
      values_[name].push_back(*value);
    } else if (++i < words.size()) {
      values_[name].push_back(words[i]);
    } else {
      throw Usage{fmt::format("{} needs a value", name)};
    }
  }
}

std::string Words::one(const std::string &name) const {
  const auto found = values_.find(name);
  if (found == values_.end()) throw Usage{fmt::format("{} is missing", name)};
  return found->second.back();
}

std::string Words::one_or(const std::string &name, std::string fallback) const {
  const auto found = values_.find(name);
  return found == values_.end() ? std::move(fallback) : found->second.back();
}

std::vector<std::string> Words::all(const std::string &name) const {
  const auto found = values_.find(name);
  return found == values_.end() ? std::vector<std::string>() : found->second;
}

std::string Words::place(std::size_t index, std::string_view what) const {
  if (index >= places_.size()) throw Usage{fmt::format("{} is missing", what)};
  return places_[index];
}

State open_state(const Words &words) {
  auto config = load_config(words.one_or("--config", "/etc/inlay/ca.toml"));
  if (!config) throw Failure{config.error().text()};
  auto opened = open_state(*config);
  if (!opened) throw Failure{std::move(opened.error())};
  return State{std::move(*config), std::move(opened->store), std::move(opened->seal),
               std::time(nullptr), opened->is_new};
}

std::string State::beginning() const {
  if (!is_new) return "";
  return fmt::format("there was no authority in {}: a new one begins, which no machine knows yet",
                     config.database.empty() ? config.state : "the database");
}

Signer State::signer() {
  std::optional<Authority> upstream;
  if (!config.upstream.empty()) {
    auto loaded = load_upstream(config.upstream, config.trust_domain);
    if (!loaded) throw Failure{std::move(loaded.error())};
    upstream = std::move(*loaded);
  }
  const AuthorityRows rows = value_of(store.change_authorities(
      [&](AuthorityRows &changed) { return maintain(changed, seal, config.rotation, now); }));
  auto made = Signer::open(rows, value_of(store.generation()), seal, config.trust_domain,
                           std::move(upstream));
  if (!made) throw Failure{std::move(made.error())};
  return std::move(*made);
}

void State::audit(AuditRecord record) const {
  const passwd *const user = ::getpwuid(::getuid());
  const std::string by = user != nullptr ? user->pw_name : std::to_string(::getuid());
  record.by = by;
  if (config.log_file.empty()) {
    std::string line = audit_line(record);
    line.pop_back();
    ::openlog("inlay-ca", LOG_PID, LOG_AUTHPRIV);
    ::syslog(LOG_NOTICE, "%s", line.c_str());
    return;
  }
  AuditLog log;
  const auto opened = log.open(config.log_file);
  if (opened) log.write(record);
  if (!opened || log.lost() != 0) {
    fmt::print(stderr, "inlay ca: warning: done, but not in the audit log: {}\n",
               opened ? config.log_file + " cannot be written" : opened.error());
  }
}

void Table::print() const {
  std::vector<std::size_t> widths(rows_.front().size());
  for (const auto &row : rows_) {
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  for (const auto &row : rows_) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) {
      line += i + 1 == row.size() ? row[i] : fmt::format("{:<{}}  ", row[i], widths[i]);
    }
    fmt::print("{}\n", line);
  }
}

int run_command(std::vector<std::string> words) {
  try {
    return dispatch(words);
  } catch (const Usage &usage) {
    return complain(usage.message + "; see inlay ca --help", kExitUsage);
  } catch (const Failure &failure) {
    return complain(failure.message, kExitFailed);
  } catch (const std::exception &error) {
    return complain(error.what(), kExitFailed);
  }
}

}  // namespace inlay::identity::ca
