// inlay log: what the processes under inlay noted down, oldest first.
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tools/commands.h"
#include "tools/exit_code.h"
#include "tools/log_reader.h"
#include "tools/log_text.h"
#include "tools/text.h"

namespace inlay::tools {
namespace {

constexpr std::string_view kHelp =
    R"(Usage: inlay log [PID] [OPTIONS]

Shows what inlay refused, cut, accepted or let through in the clear, and why: the last 256 events of
each process, living or dead, oldest first.

Options:
  --json      JSON lines: time, pid, executable, program, event, direction, reason, rule, local,
              remote, own_id, peer_id, detail, fd, bytes_in, bytes_out, version, uid
  --problems  leave out connections that were let in and those that ended normally, or that a rule
              lets through in the clear: what was refused or cut, and what else is worth a line
  --follow    keep showing events as they come; end with Ctrl-C
  --reasons   print every reason there is, with its sentence, and end

Looks in /run/inlay/log and $XDG_RUNTIME_DIR/inlay; root sees every user's. Logs of the user's own
processes that ended more than a day ago are removed in passing.

Exit codes: 0 good (also without any event), 1 the process has no log, 2 usage
)";

// Logs of dead processes are kept this long.
constexpr std::int64_t kKeepSeconds = 24 * 60 * 60;
constexpr timespec kFollowInterval = {0, 200'000'000};

struct Options {
  pid_t pid = 0;  // 0: all
  bool json = false;
  bool problems = false;
  bool follow = false;
  bool reasons = false;
};

// The first event of a file that was not shown yet.
struct Next {
  ino_t inode = 0;
  std::uint64_t number = 0;
};

struct Line {
  std::int64_t time_ns;
  std::string text;
};

class Logs {
 public:
  explicit Logs(const Options &options) : options_(options), folders_(log_folders()) {}

  // Prints what is new since the last call.
  void show() {
    std::vector<Line> lines;
    for (const std::string &folder : folders_) {
      std::error_code error;
      for (const auto &entry : std::filesystem::directory_iterator(folder, error)) {
        auto name = parse_log_name(entry.path().filename().string());
        if (name && (options_.pid == 0 || options_.pid == name->pid)) {
          read(entry.path().string(), *name, lines);
        }
      }
    }
    std::stable_sort(lines.begin(), lines.end(),
                     [](const Line &a, const Line &b) { return a.time_ns < b.time_ns; });
    for (const Line &line : lines) {
      std::fwrite(line.text.data(), 1, line.text.size(), stdout);
      std::fputc('\n', stdout);
    }
    shown_ += lines.size();
    std::fflush(stdout);
  }

  std::size_t shown() const { return shown_; }
  std::size_t processes() const { return next_.size(); }
  std::string places() const { return fmt::format("{}", fmt::join(folders_, ", ")); }

 private:
  void read(const std::string &path, const LogName &name, std::vector<Line> &lines) {
    // A process that executes another program goes on in its file. Only where that held no event,
    // and was removed, does another begin under the same name.
    struct stat status {};
    if (::lstat(path.c_str(), &status) != 0) return;
    auto known = next_.find(path);
    bool same = known != next_.end() && known->second.inode == status.st_ino;
    auto log = read_log(path, name, same ? known->second.number : 0);
    if (!log) {
      // Of another user: not an error unless it was asked for.
      bool silent = ::access(path.c_str(), R_OK) != 0 && options_.pid == 0;
      if (!silent && !complained_[path]) complain(path + ": " + log.error());
      complained_[path] = true;
      return;
    }
    Next &next = next_[path];
    next = {status.st_ino, same ? next.number : 0};
    if (log->overwritten != 0) {
      complain(fmt::format("{} earlier events of process {} are no longer kept", log->overwritten,
                           log->pid));
    }
    for (const LogEvent &event : log->events) {
      next.number = event.number + 1;
      if (options_.problems && !is_problem(event.event)) continue;
      lines.push_back(
          {event.time_ns, options_.json ? json_line(*log, event) : human_line(*log, event)});
    }
    if (!same) remove_if_old(path, name, *log);
  }

  // A log costs memory under /run for as long as it exists; its process cannot remove it when it
  // is killed.
  static void remove_if_old(const std::string &path, const LogName &name, const ProcessLog &log) {
    if (log.owner != ::geteuid() || is_alive(name)) return;
    struct stat status {};
    if (::lstat(path.c_str(), &status) != 0 || !S_ISREG(status.st_mode)) return;
    std::int64_t newest = std::max(status.st_mtim.tv_sec, status.st_ctim.tv_sec);
    if (!log.events.empty()) {
      newest = std::max(newest, log.events.back().time_ns / 1'000'000'000);
    }
    if (std::time(nullptr) - newest > kKeepSeconds) ::unlink(path.c_str());
  }

  const Options &options_;
  std::vector<std::string> folders_;
  std::map<std::string, Next> next_;  // by path
  std::map<std::string, bool> complained_;
  std::size_t shown_ = 0;
};

void print_reasons(bool json) {
  for (std::size_t i = 0; i < policy::kReasonCount; ++i) {
    auto reason = static_cast<policy::Reason>(i);
    if (json) {
      nlohmann::ordered_json line = {{"reason", policy::name(reason)},
                                     {"sentence", policy::sentence(reason)}};
      fmt::print("{}\n", line.dump());
    } else {
      fmt::print("{:<26} {}\n", policy::name(reason), policy::sentence(reason));
    }
  }
}

void show_logs(const Options &options) {
  if (options.reasons) return print_reasons(options.json);
  Logs logs(options);
  logs.show();
  if (options.pid != 0 && logs.processes() == 0 && !options.follow) {
    complain(fmt::format("process {} has no log in {}; was it started by inlay run, by this user?",
                         options.pid, logs.places()));
    throw Exit{kExitFailed};
  }
  if (logs.shown() == 0 && logs.processes() != 0 && options.problems) {
    complain(fmt::format("no problems of {} processes in {}", logs.processes(), logs.places()));
  } else if (logs.shown() == 0) {
    complain(
        fmt::format("no events yet in {}; they come with the first connection of a program "
                    "started by inlay run",
                    logs.places()));
  }
  while (options.follow && std::ferror(stdout) == 0) {
    ::nanosleep(&kFollowInterval, nullptr);
    logs.show();
  }
}

}  // namespace

void add_log_command(const Command &root) {
  const Command command = root.subcommand("log", kHelp);
  auto options = std::make_shared<Options>();
  command.positive_number("pid", options->pid);
  command.flag("--json", options->json);
  command.flag("--problems", options->problems);
  command.flag("--follow", options->follow);
  command.flag("--reasons", options->reasons);
  command.callback([options] { show_logs(*options); });
}

}  // namespace inlay::tools
