#include "tools/systemctl.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <string_view>

#include "policy/trusted_file.h"
#include "tools/unit_file.h"

namespace inlay::tools {
namespace {

using Failure = tl::unexpected<std::string>;
using policy::UniqueFd;

struct Pipe {
  UniqueFd reader, writer;
  Pipe() {
    std::array<int, 2> ends{-1, -1};
    if (::pipe2(ends.data(), O_CLOEXEC) == 0) {
      reader = UniqueFd(ends[0]);
      writer = UniqueFd(ends[1]);
    }
  }
};

std::string first_line(std::string_view text) {
  return std::string(text.substr(0, text.find('\n')));
}

long number(std::string_view text) {
  long value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

std::string folder_of_units(bool of_user) {
  if (!of_user) return "/etc/systemd/system";
  const char *const config = ::secure_getenv("XDG_CONFIG_HOME");
  if (config != nullptr && *config == '/') return std::string(config) + "/systemd/user";
  const char *const home = ::secure_getenv("HOME");
  return std::string(home == nullptr ? "" : home) + "/.config/systemd/user";
}

}  // namespace

Output output_of(const std::vector<std::string> &words, void (*before)(const void *),
                 const void *argument) {
  Output output;
  Pipe out, errors;
  if (!out.reader || !errors.reader) return output;
  std::vector<char *> arguments;
  for (const std::string &word : words) arguments.push_back(const_cast<char *>(word.c_str()));
  arguments.push_back(nullptr);
  const pid_t child = ::fork();
  if (child < 0) return output;
  if (child == 0) {
    const UniqueFd nothing(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    ::dup2(nothing.get(), STDIN_FILENO);
    ::dup2(out.writer.get(), STDOUT_FILENO);
    ::dup2(errors.writer.get(), STDERR_FILENO);
    if (before != nullptr) before(argument);
    ::execvp(arguments[0], arguments.data());
    ::_exit(127);
  }
  out.writer = UniqueFd();
  errors.writer = UniqueFd();
  std::array<pollfd, 2> waiting{{{.fd = out.reader.get(), .events = POLLIN, .revents = 0},
                                 {.fd = errors.reader.get(), .events = POLLIN, .revents = 0}}};
  while (waiting[0].fd >= 0 || waiting[1].fd >= 0) {
    if (::poll(waiting.data(), waiting.size(), -1) < 0 && errno != EINTR) break;
    for (std::size_t i = 0; i < waiting.size(); ++i) {
      if (waiting[i].fd < 0 || waiting[i].revents == 0) continue;
      std::array<char, 4096> buffer;
      const ssize_t got = ::read(waiting[i].fd, buffer.data(), buffer.size());
      if (got > 0)
        (i == 0 ? output.out : output.errors).append(buffer.data(), static_cast<std::size_t>(got));
      if (got == 0 || (got < 0 && errno != EINTR)) waiting[i].fd = -1;
    }
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status)) output.code = WEXITSTATUS(status);
  return output;
}

tl::expected<std::string, std::string> Systemctl::systemctl(std::vector<std::string> words) const {
  if (of_user_) words.insert(words.begin(), "--user");
  words.insert(words.begin(), {"systemctl", "--no-pager"});
  Output output = output_of(words);
  if (output.code == 127) return Failure(std::string("systemctl is not here"));
  if (output.code != 0) {
    return Failure(
        fmt::format("systemctl {}: {}", words[of_user_ ? 3 : 2], first_line(output.errors)));
  }
  return std::move(output.out);
}

tl::expected<Unit, std::string> Systemctl::look_up(const std::string &name) const {
  auto text = systemctl(
      {"show",
       "--property=Id,LoadState,FragmentPath,DropInPaths,ActiveState,Result,MainPID,NRestarts",
       "--", name});
  if (!text) return Failure(text.error());
  Unit unit;
  std::string_view rest = *text;
  while (!rest.empty()) {
    const std::size_t end = rest.find('\n');
    const std::string_view line = rest.substr(0, end);
    rest.remove_prefix(end == rest.npos ? rest.size() : end + 1);
    const std::size_t equals = line.find('=');
    if (equals == line.npos) continue;
    const std::string_view key = line.substr(0, equals);
    const std::string value(line.substr(equals + 1));
    if (key == "Id") unit.name = value;
    if (key == "LoadState") unit.load = value;
    if (key == "FragmentPath") unit.file = value;
    if (key == "DropInPaths") unit.drop_ins = split_words(value);
    if (key == "ActiveState") unit.active = value;
    if (key == "Result") unit.result = value;
    if (key == "MainPID") unit.main_pid = number(value);
    if (key == "NRestarts") unit.restarts = number(value);
  }
  return unit;
}

tl::expected<std::vector<std::string>, std::string> Systemctl::executables(
    const std::string &name) const {
  auto text = systemctl({"show", "--property=ExecStart", "--", name});
  if (!text) return Failure(text.error());
  std::vector<std::string> paths;
  constexpr std::string_view kPath = "{ path=";
  std::string_view rest = *text;
  while (true) {
    const std::size_t at = rest.find(kPath);
    if (at == rest.npos) return paths;
    rest.remove_prefix(at + kPath.size());
    paths.emplace_back(rest.substr(0, rest.find(" ; ")));
  }
}

tl::expected<void, std::string> Systemctl::reload_units() const {
  return systemctl({"daemon-reload"}).map([](const std::string &) {});
}

tl::expected<void, std::string> Systemctl::restart(const std::string &name) const {
  return systemctl({"restart", "--", name}).map([](const std::string &) {});
}

std::string Systemctl::last_words(const std::string &name) const {
  std::vector<std::string> words = {"journalctl", "--no-pager", "--output=cat", "--lines=5"};
  words.push_back((of_user_ ? "--user-unit=" : "--unit=") + name);
  return output_of(words).out;
}

std::string Systemctl::drop_in_folder(const std::string &name) const {
  return fmt::format("{}/{}.d", folder_of_units(of_user_), name);
}

std::vector<std::string> units_with_drop_in(bool of_user, std::string_view name) {
  std::vector<std::string> units;
  std::error_code error;
  for (const auto &entry : std::filesystem::directory_iterator(folder_of_units(of_user), error)) {
    const std::filesystem::path &folder = entry.path();
    if (folder.extension() == ".d" && ::access((folder / name).c_str(), F_OK) == 0) {
      units.push_back(folder.stem());
    }
  }
  std::sort(units.begin(), units.end());
  return units;
}

}  // namespace inlay::tools
