#include "tools/unit_sandbox.h"

#include <doctest/doctest.h>

#include <algorithm>

using namespace inlay::tools;

namespace {

const SandboxNeeds kNeeds = {.command = "/usr/bin/inlay",
                             .library = "/usr/lib/inlay/libinlay.so",
                             .config = "",
                             .agent = "/run/inlay/agent.sock"};

constexpr const char *kGroups =
    "@default\n    # always\n    execve\n    read\n\n"
    "@most\n    # all but two\n    @default\n    mmap\n    @net\n\n"
    "@net\n    socket\n    connect\n\n"
    "# what belongs to no group\n";

SandboxJudgement judged(const std::string &settings, const SandboxNeeds &needs = kNeeds) {
  UnitSettings unit;
  unit.add("[Service]\n" + settings);
  return judge_sandbox(unit, needs, {});
}

using Lines = std::vector<std::string>;

}  // namespace

TEST_CASE("settings that keep inlay from working are refused, each with its reason") {
  const SandboxNeeds at_home = {.command = "/home/a/inlay",
                                .library = "/tmp/libinlay.so",
                                .config = "/root/c.toml",
                                .agent = "/run/user/1000/inlay/agent.sock"};
  struct Row {
    std::string setting;
    std::size_t refusals;
  };
  for (const Row &row :
       std::vector<Row>{{"ProtectHome=yes", 3},
                        {"ProtectHome=read-only", 0},
                        {"ProtectHome=no", 0},
                        {"PrivateTmp=true", 1},
                        {"PrivateTmp=disconnected", 1},
                        {"DynamicUser=yes", 1},
                        {"InaccessiblePaths=/run", 1},
                        {"InaccessiblePaths=-/run/user/", 1},
                        {"InaccessiblePaths=/run/use", 0},
                        {"InaccessiblePaths=/\nInaccessiblePaths=", 0},
                        {"InaccessiblePaths=/", 4},
                        {"RootDirectory=/srv/a", 1},
                        {"RootDirectory=/", 0},
                        {"RootImage=/a.raw", 1},
                        {"AppArmorProfile=-a", 1},
                        {"SELinuxContext=a", 1},
                        {"TasksMax=1", 1},
                        {"TasksMax=10%", 0},
                        {"PrivateNetwork=yes\nPrivateUsers=yes\nNoNewPrivileges=yes\n"
                         "MemoryDenyWriteExecute=yes\nProtectProc=invisible\nProcSubset=pid",
                         0}}) {
    CAPTURE(row.setting);
    CHECK(judged(row.setting, at_home).refusals.size() == row.refusals);
  }
}

TEST_CASE("settings that need a word in the drop-in get it") {
  struct Row {
    std::string setting;
    Lines additions;
  };
  const Row rows[] = {
      {"NoExecPaths=/\nExecPaths=/usr/bin/redis-server",
       {"ExecPaths=/usr/bin/inlay /usr/lib/inlay/libinlay.so"}},
      {"RestrictAddressFamilies=AF_INET AF_INET6", {"RestrictAddressFamilies=AF_UNIX"}},
      {"RestrictAddressFamilies=AF_INET AF_UNIX", {}},
      {"RestrictAddressFamilies=none", {"RestrictAddressFamilies=AF_UNIX"}},
      {"RestrictAddressFamilies=~AF_UNIX", {"RestrictAddressFamilies=AF_UNIX"}},
      {"RestrictAddressFamilies=~AF_PACKET", {}},
      {"ProtectSystem=strict", {"ReadWritePaths=-/run/inlay/log"}},
      {"ProtectSystem=full", {}},
      {"DynamicUser=yes", {"ReadWritePaths=-/run/inlay/log"}},
      {"ReadOnlyPaths=/", {"ReadWritePaths=-/run/inlay/log"}},
      {"TemporaryFileSystem=/run:ro", {"BindReadOnlyPaths=/run/inlay", "BindPaths=-/run/inlay/log"}},
      {"TemporaryFileSystem=/var", {}},
  };
  for (const Row &row : rows) {
    CAPTURE(row.setting);
    CHECK(judged(row.setting).additions == row.additions);
    CHECK(judged(row.setting).refusals.empty());
  }
  CHECK(judged("RestrictAddressFamilies=AF_INET", {"/i", "/l", "/c", ""}).additions.empty());
}

TEST_CASE("calls that a filter takes away are found, whichever way it is written") {
  const SystemCallGroups groups = parse_system_call_groups(kGroups);
  REQUIRE(groups.size() == 3);
  CHECK(groups.at("@most") == Lines{"@default", "mmap", "@net"});
  const auto missing = [&](const std::string &settings) {
    UnitSettings unit;
    unit.add("[Service]\n" + settings);
    return filtered_calls(unit, groups);
  };
  const auto is_missing = [&](const std::string &settings, const std::string &call) {
    const Lines calls = missing(settings);
    return std::find(calls.begin(), calls.end(), call) != calls.end();
  };
  CHECK(missing("").empty());
  CHECK(missing("SystemCallFilter=~setrlimit @clock").empty());
  CHECK(missing("SystemCallFilter=~@net") == Lines{"connect", "socket"});
  CHECK(missing("SystemCallFilter=~@net:EPERM\nSystemCallFilter=socket") == Lines{"connect"});
  CHECK(is_missing("SystemCallFilter=@most", "futex"));
  CHECK_FALSE(is_missing("SystemCallFilter=@most", "mmap"));
  CHECK_FALSE(is_missing("SystemCallFilter=@most", "execve"));
  CHECK(is_missing("SystemCallFilter=@most\nSystemCallFilter=~mmap", "mmap"));
  CHECK(missing("SystemCallFilter=@most\nSystemCallFilter=").empty());
  UnitSettings narrow;
  narrow.add("[Service]\nSystemCallFilter=@most\n");
  CHECK(filtered_calls(narrow, groups, true).back() == "seccomp");
  UnitSettings unit;
  unit.add("[Service]\nSystemCallFilter=~@net\n");
  CHECK(judge_sandbox(unit, kNeeds, groups).additions == Lines{"SystemCallFilter=connect socket"});
}
