#include "tools/settings.h"

#include <doctest/doctest.h>
#include <sys/stat.h>

#include <filesystem>

#include "temporary_folder.h"

using inlay::tools::find_config;

TEST_CASE("the configuration is the one given, then the environment's, then the user's") {
  TemporaryFolder folder;
  std::filesystem::create_directories(folder.path() + "/inlay");
  std::string user = folder.write("inlay/config.toml", "");
  ScopedVariable home("XDG_CONFIG_HOME", folder.path().c_str());
  {
    ScopedVariable variable("INLAY_CONFIG", "/b.toml");
    CHECK(find_config("/a.toml").value() == "/a.toml");
    CHECK(find_config("").value() == "/b.toml");
  }
  ScopedVariable variable("INLAY_CONFIG", nullptr);
  CHECK(find_config("").value() == user);
  CHECK(find_config("c.toml").value() == (std::filesystem::current_path() / "c.toml").string());
}

TEST_CASE("an agent stands in for a configuration: by its address, or where there is no file") {
  TemporaryFolder folder;
  ScopedVariable home("XDG_CONFIG_HOME", folder.path().c_str());
  ScopedVariable runtime("XDG_RUNTIME_DIR", folder.path().c_str());
  ScopedVariable variable("INLAY_CONFIG", nullptr);
  CHECK(find_config("unix:///a/agent.sock").value() == "unix:///a/agent.sock");
  if (std::filesystem::exists("/etc/inlay/config.toml")) return;
  if (std::filesystem::exists("/run/inlay/agent.sock")) return;
  std::filesystem::create_directories(folder.path() + "/inlay");
  const std::string socket = folder.write("inlay/agent.sock", "");
  CHECK(find_config("").value() == "unix://" + socket);
  const std::string file = folder.write("inlay/config.toml", "");
  CHECK(find_config("").value() == file);
}

TEST_CASE("without any configuration the error says where one belongs") {
  TemporaryFolder folder;
  ScopedVariable home("XDG_CONFIG_HOME", folder.path().c_str());
  ScopedVariable runtime("XDG_RUNTIME_DIR", folder.path().c_str());
  ScopedVariable variable("INLAY_CONFIG", nullptr);
  if (std::filesystem::exists("/etc/inlay/config.toml")) return;
  if (std::filesystem::exists("/run/inlay/agent.sock")) return;
  CHECK(find_config("").error() ==
        "no configuration: give --config FILE, write " + folder.path() +
            "/inlay/config.toml, or start inlay-agent");
}

TEST_CASE("a user's configuration that cannot be looked at is not skipped") {
  TemporaryFolder folder;
  std::string file = folder.write("file", "");
  ScopedVariable home("XDG_CONFIG_HOME", file.c_str());  // ENOTDIR
  ScopedVariable variable("INLAY_CONFIG", nullptr);
  CHECK(find_config("").value() == file + "/inlay/config.toml");
}
