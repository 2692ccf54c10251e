// A PostgreSQL of the tests' own, on a Unix socket in a temporary folder; gone with the process.
#pragma once

#include <sys/types.h>

#include <string>

#include "identity/ca/database.h"
#include "tests/unit/tools/temporary_folder.h"

namespace inlay::identity::ca::testing {

class PostgresServer {
 public:
  PostgresServer();
  ~PostgresServer();
  PostgresServer(const PostgresServer &) = delete;
  PostgresServer &operator=(const PostgresServer &) = delete;

  // A new, empty database's address.
  std::string make_database();
  void stop();  // at once, as when the machine lost its power
  void start();

  // One for all tests, started when it is asked for first.
  static PostgresServer &shared();

 private:
  std::string folder_;
  pid_t process_ = -1;
  int databases_ = 0;
};

// What tests are parameters of.
struct Sqlite {
  static constexpr const char *kName = "SQLite";
  std::string address() const { return folder.path() + "/ca.db"; }
  DatabasePtr open() const;
  TemporaryFolder folder;
};
struct Postgres {
  static constexpr const char *kName = "PostgreSQL";
  std::string address() const { return address_; }
  DatabasePtr open() const;
  std::string address_ = PostgresServer::shared().make_database();
};

}  // namespace inlay::identity::ca::testing
