#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <thread>

#include "postgres_server.h"

using namespace inlay::identity::ca;
using namespace inlay::identity::ca::testing;

namespace {

using Kind = DatabaseError::Kind;

tl::expected<void, DatabaseError> run(Database &database, std::string_view sql,
                                      const std::vector<Cell> &parameters = {}) {
  return database.transaction([&](Connection &connection) {
    return connection.query(sql, parameters).map([](const Rows &) {});
  });
}

Rows rows_of(Database &database, std::string_view sql, const std::vector<Cell> &parameters = {}) {
  Rows rows;
  auto done =
      database.transaction([&](Connection &connection) -> tl::expected<void, DatabaseError> {
        auto found = connection.query(sql, parameters);
        if (!found) return tl::unexpected(found.error());
        rows = *found;
        return {};
      });
  REQUIRE_MESSAGE(done, (done ? "" : done.error().message));
  return rows;
}

bool one_line(const DatabaseError &error) {
  return !error.message.empty() && error.message.find('\n') == std::string::npos;
}

}  // namespace

TEST_CASE_TEMPLATE("what is written is read back, whatever its kind", Kept, Sqlite, Postgres) {
  const Kept kept;
  const DatabasePtr database = kept.open();
  REQUIRE(run(*database, "CREATE TABLE t (n BIGINT, s TEXT, b BYTEA)"));
  const std::string bytes("\0\xff\x80 '\n", 6), text = "caf\xc3\xa9 'quoted' $1\n";
  for (const std::int64_t number : {INT64_MIN, std::int64_t{-1}, std::int64_t{0}, INT64_MAX}) {
    REQUIRE(run(*database, "DELETE FROM t"));
    REQUIRE(
        run(*database, "INSERT INTO t (n, s, b) VALUES ($1, $2, $3)", {number, text, Blob{bytes}}));
    const Rows rows = rows_of(*database, "SELECT n, s, b FROM t");
    REQUIRE(rows.size() == 1);
    CHECK(rows[0].number(0) == number);
    CHECK(rows[0].text(1) == text);
    CHECK(rows[0].bytes(2) == bytes);
  }
  REQUIRE(run(*database, "UPDATE t SET n = $1, s = $2, b = $3",
              {std::monostate(), std::string(), Blob{}}));
  const Rows rows = rows_of(*database, "SELECT n, s, b FROM t WHERE n IS NULL");
  REQUIRE(rows.size() == 1);
  CHECK(rows[0].null(0));
  CHECK_FALSE(rows[0].null(1));
  CHECK_FALSE(rows[0].null(2));
}

TEST_CASE_TEMPLATE("a transaction that fails leaves nothing behind", Kept, Sqlite, Postgres) {
  const Kept kept;
  const DatabasePtr database = kept.open();
  REQUIRE(run(*database, "CREATE TABLE t (n BIGINT PRIMARY KEY)"));
  auto failed =
      database->transaction([&](Connection &connection) -> tl::expected<void, DatabaseError> {
        REQUIRE(connection.query("INSERT INTO t VALUES (1)"));
        return tl::unexpected(DatabaseError{Kind::other, "changed my mind"});
      });
  REQUIRE_FALSE(failed);
  CHECK(failed.error().message == "changed my mind");
  CHECK(rows_of(*database, "SELECT n FROM t").empty());

  REQUIRE(run(*database, "INSERT INTO t VALUES (1)"));
  const auto twice = run(*database, "INSERT INTO t VALUES (1)");
  REQUIRE_FALSE(twice);
  CHECK(twice.error().kind == Kind::constraint);
  CHECK(one_line(twice.error()));
  const auto nonsense = run(*database, "SELECT nothing FROM nowhere");
  REQUIRE_FALSE(nonsense);
  CHECK(nonsense.error().kind == Kind::other);
  CHECK(one_line(nonsense.error()));
  CHECK(rows_of(*database, "SELECT n FROM t").size() == 1);
}

TEST_CASE_TEMPLATE("concurrent changes of one row are all done, one after the other", Kept, Sqlite,
                   Postgres) {
  const Kept kept;
  const DatabasePtr database = kept.open(), other = kept.open();
  REQUIRE(run(*database, "CREATE TABLE t (n BIGINT)"));
  REQUIRE(run(*database, "INSERT INTO t VALUES (0)"));
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&, i] {
      for (int j = 0; j < 25; ++j) {
        Database &mine = i % 2 == 0 ? *database : *other;
        CHECK(mine.transaction([&](Connection &connection) -> tl::expected<void, DatabaseError> {
          if (auto locked = connection.exclude_others(); !locked) return locked;
          auto rows = connection.query("SELECT n FROM t");
          if (!rows) return tl::unexpected(rows.error());
          return connection.query("UPDATE t SET n = $1", {rows->front().number(0) + 1})
              .map([](const Rows &) {});
        }));
      }
    });
  }
  for (std::thread &thread : threads) thread.join();
  CHECK(rows_of(*database, "SELECT n FROM t")[0].number(0) == 200);
}

TEST_CASE("SQLite: nobody else can read the file, nor what lies beside it") {
  const Sqlite kept;
  const DatabasePtr database = kept.open();
  REQUIRE(run(*database, "CREATE TABLE t (n BIGINT)"));
  for (const char *suffix : {"", "-wal", "-shm"}) {
    struct stat status {};
    REQUIRE(::stat((kept.address() + suffix).c_str(), &status) == 0);
    CHECK((status.st_mode & 0777) == 0600);
  }
}

TEST_CASE("SQLite: who made the database goes on seeing what other processes change") {
  const Sqlite kept;
  const DatabasePtr database = kept.open();
  REQUIRE(run(*database, "CREATE TABLE t (n BIGINT)"));
  // A process that was started, not forked alone: SQLite's own books of locks would come along.
  const std::string other =
      "python3 -c \"import sqlite3; d = sqlite3.connect('" + kept.address() +
      "'); d.execute('INSERT INTO t (n) VALUES (1)'); d.commit(); d.close()\"";
  for (unsigned turn = 1; turn <= 2; ++turn) {
    REQUIRE(std::system(other.c_str()) == 0);
    REQUIRE(run(*database, "INSERT INTO t (n) VALUES (2)"));
    CHECK(rows_of(*database, "SELECT n FROM t").size() == 2 * turn);
  }
}

TEST_CASE("SQLite: a damaged file is called that, with what to do") {
  const Sqlite kept;
  {
    const DatabasePtr database = kept.open();
    REQUIRE(run(*database, "CREATE TABLE t (n BIGINT, s TEXT)"));
    for (int i = 0; i < 300; ++i) {
      REQUIRE(run(*database, "INSERT INTO t VALUES ($1, $2)",
                  {std::int64_t{i}, std::string(100, 'x')}));
    }
  }
  const auto damage = [&](std::streamoff from, std::size_t bytes) {
    std::fstream file(kept.address(), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(from);
    file << std::string(bytes, '\xa5');
  };
  damage(4096, 8192);
  auto opened = open_sqlite(kept.address());
  REQUIRE_FALSE(opened);
  CHECK(opened.error().kind == Kind::corrupt);
  CHECK(opened.error().message.find(kept.address()) != std::string::npos);
  CHECK(opened.error().message.find("restore the last backup") != std::string::npos);
  CHECK(one_line(opened.error()));
  damage(0, 100);
  opened = open_sqlite(kept.address());
  REQUIRE_FALSE(opened);
  CHECK(opened.error().kind == Kind::corrupt);
}

TEST_CASE("SQLite: a folder that is not there") {
  const auto opened = open_sqlite("/nonexistent/ca.db");
  REQUIRE_FALSE(opened);
  CHECK(opened.error().kind == Kind::unavailable);
  CHECK(opened.error().message ==
        "the database /nonexistent/ca.db cannot be made: No such file or directory");
}

TEST_CASE("SQLite: a full disk refuses the change, loses nothing, and is over with room") {
  const Sqlite kept;
  const DatabasePtr database = kept.open();
  REQUIRE(run(*database, "CREATE TABLE t (s TEXT)"));
  REQUIRE(run(*database, "INSERT INTO t VALUES ('kept')"));
  REQUIRE(run(*database, "PRAGMA max_page_count = 2"));
  const auto full = run(*database, "INSERT INTO t VALUES ($1)", {std::string(100'000, 'x')});
  REQUIRE_FALSE(full);
  CHECK(full.error().kind == Kind::unavailable);
  CHECK(full.error().message.find("make room") != std::string::npos);
  CHECK(rows_of(*database, "SELECT s FROM t").size() == 1);
  REQUIRE(run(*database, "PRAGMA max_page_count = 1000000"));
  CHECK(run(*database, "INSERT INTO t VALUES ($1)", {std::string(100'000, 'x')}));
}

TEST_CASE("PostgreSQL: one that restarts is connected to again, and says so meanwhile") {
  PostgresServer server;
  auto opened = open_postgres(server.make_database());
  REQUIRE(opened);
  Database &database = **opened;
  REQUIRE(run(database, "CREATE TABLE t (n BIGINT)"));
  server.stop();
  const auto gone = run(database, "INSERT INTO t VALUES (1)");
  INFO((gone ? "" : gone.error().message));
  REQUIRE_FALSE(gone);
  CHECK(gone.error().kind == Kind::unavailable);
  CHECK(one_line(gone.error()));
  server.start();
  CHECK(run(database, "INSERT INTO t VALUES (2)"));
  // Restarted between two statements: the connection that is idle here is dead.
  server.stop();
  server.start();
  CHECK(run(database, "INSERT INTO t VALUES (3)"));
  CHECK(rows_of(database, "SELECT n FROM t ORDER BY n").size() == 2);
}

TEST_CASE("PostgreSQL: no password is in a message") {
  for (const char *address :
       {"postgresql://ca:hunter2@/x?host=/nonexistent",
        "host=/nonexistent password=hunter2 dbname=x", "postgresql://ca:hunter2@[::1/x"}) {
    const auto opened = open_postgres(address);
    REQUIRE_FALSE(opened);
    CHECK(opened.error().message.find("hunter2") == std::string::npos);
    CHECK(one_line(opened.error()));
  }
}
