#include "postgres_server.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <grp.h>
#include <libpq-fe.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <stdexcept>
#include <vector>

namespace inlay::identity::ca::testing {
namespace {

constexpr const char *kPrograms = "/usr/lib/postgresql/15/bin/";

// It refuses to run as root.
const passwd *unprivileged() { return geteuid() == 0 ? getpwnam("postgres") : nullptr; }

pid_t spawn(std::vector<std::string> words, const std::string &log) {
  const passwd *const user = unprivileged();
  words[0] = kPrograms + words[0];
  std::vector<char *> arguments;
  for (std::string &word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child != 0) return child;
  const int out = ::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0666);
  dup2(out, STDOUT_FILENO);
  dup2(out, STDERR_FILENO);
  if (user != nullptr &&
      (setgroups(0, nullptr) != 0 || setgid(user->pw_gid) != 0 || setuid(user->pw_uid) != 0)) {
    _exit(126);
  }
  prctl(PR_SET_PDEATHSIG, SIGQUIT);  // after setuid(), which clears it
  if (getppid() != parent) _exit(126);
  execv(arguments[0], arguments.data());
  _exit(127);
}

}  // namespace

PostgresServer::PostgresServer() {
  folder_ = (std::filesystem::temp_directory_path() / "inlay-postgres-XXXXXX").string();
  if (mkdtemp(folder_.data()) == nullptr) throw std::runtime_error("mkdtemp");
  if (const passwd *user = unprivileged();
      user != nullptr && chown(folder_.c_str(), user->pw_uid, user->pw_gid) != 0) {
    throw std::runtime_error("chown");
  }
  const pid_t process = spawn({"initdb", "-D", folder_ + "/data", "-U", "inlay", "-A", "trust",
                               "-N", "--no-locale", "-E", "UTF8"},
                              folder_ + "/initdb.log");
  int status = 0;
  if (waitpid(process, &status, 0) != process || status != 0) {
    throw std::runtime_error("initdb failed; is postgresql-15 installed?");
  }
  start();
}

void PostgresServer::start() {
  process_ =
      spawn({"postgres", "-D", folder_ + "/data", "-k", folder_, "-c", "listen_addresses=", "-c",
             "fsync=off", "-c", "max_connections=200", "-c", "autovacuum=off"},
            folder_ + "/postgres.log");
  const std::string address = fmt::format("host={} user=inlay dbname=postgres", folder_);
  while (PQping(address.c_str()) != PQPING_OK) {
    if (waitpid(process_, nullptr, WNOHANG) != 0) throw std::runtime_error("postgres ended");
    poll(nullptr, 0, 20);
  }
}

void PostgresServer::stop() {
  kill(process_, SIGQUIT);
  waitpid(process_, nullptr, 0);
  process_ = -1;
}

PostgresServer::~PostgresServer() {
  if (process_ > 0) stop();
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

PostgresServer &PostgresServer::shared() {
  static PostgresServer server;
  return server;
}

std::string PostgresServer::make_database() {
  const std::string name = fmt::format("test{}", ++databases_);
  const std::string server = fmt::format("host={} user=inlay dbname=postgres", folder_);
  PGconn *const connection = PQconnectdb(server.c_str());
  PGresult *const result = PQexec(connection, ("CREATE DATABASE " + name).c_str());
  const bool made = PQresultStatus(result) == PGRES_COMMAND_OK;
  PQclear(result);
  PQfinish(connection);
  if (!made) throw std::runtime_error("CREATE DATABASE failed");
  return fmt::format("postgresql:///{}?host={}&user=inlay", name, folder_);
}

DatabasePtr Sqlite::open() const {
  auto database = open_sqlite(address());
  REQUIRE_MESSAGE(database, (database ? "" : database.error().message));
  return std::move(*database);
}

DatabasePtr Postgres::open() const {
  auto database = open_postgres(address());
  REQUIRE_MESSAGE(database, (database ? "" : database.error().message));
  return std::move(*database);
}

}  // namespace inlay::identity::ca::testing
