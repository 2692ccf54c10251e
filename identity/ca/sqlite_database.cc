// SQLite: one connection for all threads, one transaction at a time. Other processes may have the
// same file open: WAL lets them read meanwhile, and writers wait for each other.
#include <fcntl.h>
#include <fmt/format.h>
#include <sqlite3.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <map>
#include <mutex>

#include "identity/ca/database.h"
#include "policy/trusted_file.h"

namespace inlay::identity::ca {
namespace {

constexpr int kBusyMilliseconds = 10'000;

struct CloseDatabase {
  void operator()(sqlite3 *database) const noexcept { sqlite3_close_v2(database); }
};
struct FinalizeStatement {
  void operator()(sqlite3_stmt *statement) const noexcept { sqlite3_finalize(statement); }
};
using SqlitePtr = std::unique_ptr<sqlite3, CloseDatabase>;
using StatementPtr = std::unique_ptr<sqlite3_stmt, FinalizeStatement>;

class SqliteDatabase : public Database, private Connection {
 public:
  SqliteDatabase(std::string file, SqlitePtr sqlite)
      : file_(std::move(file)), sqlite_(std::move(sqlite)) {}

  tl::expected<void, DatabaseError> prepare();
  tl::expected<void, DatabaseError> transaction(const Work &work) override;
  std::string name() const override { return file_; }

 private:
  tl::expected<Rows, DatabaseError> query(std::string_view sql,
                                          const std::vector<Cell> &parameters) override;
  // BEGIN IMMEDIATE has seen to it.
  tl::expected<void, DatabaseError> exclude_others() override { return {}; }
  tl::expected<sqlite3_stmt *, DatabaseError> statement(std::string_view sql);
  bool bind(sqlite3_stmt *statement, const std::vector<Cell> &parameters);
  DatabaseError error() const;

  const std::string file_;
  const SqlitePtr sqlite_;
  std::mutex mutex_;
  std::map<std::string, StatementPtr, std::less<>> statements_;
};

DatabaseError error_of(const std::string &file, int code, const char *message) {
  using Kind = DatabaseError::Kind;
  switch (code & 0xff) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return {Kind::busy,
              fmt::format("the database {} is held by another process: try again", file)};
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return {Kind::corrupt, fmt::format("the database {} is damaged ({}): restore the last backup",
                                         file, message)};
    case SQLITE_CONSTRAINT:
      return {Kind::constraint, fmt::format("the database {}: {}", file, message)};
    case SQLITE_FULL:
      return {Kind::unavailable,
              fmt::format("the database {} cannot grow, its disk is full: make room", file)};
    case SQLITE_CANTOPEN:
      return {Kind::unavailable,
              fmt::format("the database {} cannot be opened: see that its folder exists and that "
                          "this user may write there",
                          file)};
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_AUTH:
      return {Kind::unavailable,
              fmt::format("the database {} cannot be written by this user ({})", file, message)};
    case SQLITE_IOERR:
    case SQLITE_NOMEM:
      return {Kind::unavailable, fmt::format("the database {}: {}", file, message)};
    default:
      return {Kind::other, fmt::format("the database {}: {}", file, message)};
  }
}

DatabaseError SqliteDatabase::error() const {
  return error_of(file_, sqlite3_extended_errcode(sqlite_.get()), sqlite3_errmsg(sqlite_.get()));
}

tl::expected<sqlite3_stmt *, DatabaseError> SqliteDatabase::statement(std::string_view sql) {
  if (auto found = statements_.find(sql); found != statements_.end()) return found->second.get();
  sqlite3_stmt *made = nullptr;
  if (sqlite3_prepare_v3(sqlite_.get(), sql.data(), static_cast<int>(sql.size()),
                         SQLITE_PREPARE_PERSISTENT, &made, nullptr) != SQLITE_OK) {
    return tl::unexpected(error());
  }
  return statements_.emplace(sql, StatementPtr(made)).first->second.get();
}

bool SqliteDatabase::bind(sqlite3_stmt *statement, const std::vector<Cell> &parameters) {
  for (std::size_t at = 0; at < parameters.size(); ++at) {
    const int index = sqlite3_bind_parameter_index(statement, fmt::format("${}", at + 1).c_str());
    if (index == 0) continue;
    int result = SQLITE_OK;
    if (const auto *number = std::get_if<std::int64_t>(&parameters[at])) {
      result = sqlite3_bind_int64(statement, index, *number);
    } else if (const auto *text = std::get_if<std::string>(&parameters[at])) {
      result = sqlite3_bind_text64(statement, index, text->data(), text->size(), SQLITE_TRANSIENT,
                                   SQLITE_UTF8);
    } else if (const auto *blob = std::get_if<Blob>(&parameters[at])) {
      // A null pointer would be bound as NULL.
      const char *const bytes = blob->bytes.empty() ? "" : blob->bytes.data();
      result = sqlite3_bind_blob64(statement, index, bytes, blob->bytes.size(), SQLITE_TRANSIENT);
    } else {
      result = sqlite3_bind_null(statement, index);
    }
    if (result != SQLITE_OK) return false;
  }
  return true;
}

Cell cell_of(sqlite3_stmt *statement, int column) {
  const auto size = [&] {
    return static_cast<std::size_t>(sqlite3_column_bytes(statement, column));
  };
  switch (sqlite3_column_type(statement, column)) {
    case SQLITE_INTEGER:
      return sqlite3_column_int64(statement, column);
    case SQLITE_TEXT: {
      const auto *const text =
          reinterpret_cast<const char *>(sqlite3_column_text(statement, column));
      return std::string(text, size());
    }
    case SQLITE_BLOB: {
      const auto *const bytes = static_cast<const char *>(sqlite3_column_blob(statement, column));
      return bytes == nullptr ? Blob{} : Blob{std::string(bytes, size())};
    }
    default:
      return std::monostate();
  }
}

tl::expected<Rows, DatabaseError> SqliteDatabase::query(std::string_view sql,
                                                        const std::vector<Cell> &parameters) {
  auto prepared = statement(sql);
  if (!prepared) return tl::unexpected(std::move(prepared.error()));
  sqlite3_stmt *const statement = *prepared;
  // Whatever happens it is ready for the next time, and holds no lock.
  const std::unique_ptr<sqlite3_stmt, int (*)(sqlite3_stmt *)> reset(statement, sqlite3_reset);
  if (!bind(statement, parameters)) return tl::unexpected(error());
  Rows rows;
  int result;
  while ((result = sqlite3_step(statement)) == SQLITE_ROW) {
    std::vector<Cell> cells;
    for (int column = 0; column < sqlite3_column_count(statement); ++column) {
      cells.push_back(cell_of(statement, column));
    }
    rows.emplace_back(std::move(cells));
  }
  if (result != SQLITE_DONE) return tl::unexpected(error());
  return rows;
}

tl::expected<void, DatabaseError> SqliteDatabase::prepare() {
  sqlite3_extended_result_codes(sqlite_.get(), 1);
  sqlite3_busy_timeout(sqlite_.get(), kBusyMilliseconds);
  // Whoever got an answer must find it again after a power failure: FULL syncs each commit.
  for (const char *pragma : {"PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL",
                             "PRAGMA foreign_keys = ON", "PRAGMA quick_check(1)"}) {
    auto rows = query(pragma, {});
    if (!rows) return tl::unexpected(std::move(rows.error()));
    if (std::string_view(pragma).find("quick_check") != std::string_view::npos &&
        (rows->empty() || rows->front().text(0) != "ok")) {
      const std::string found = rows->empty() ? "" : rows->front().text(0);
      return tl::unexpected(
          error_of(file_, SQLITE_CORRUPT, found.substr(found.rfind('\n') + 1).c_str()));
    }
  }
  return {};
}

tl::expected<void, DatabaseError> SqliteDatabase::transaction(const Work &work) {
  std::lock_guard lock(mutex_);
  // IMMEDIATE: a reader that turns writer could not wait for another (SQLITE_BUSY_SNAPSHOT).
  auto done = query("BEGIN IMMEDIATE", {}).map([](const Rows &) {});
  if (!done) return done;
  done = work(*this);
  if (done) done = query("COMMIT", {}).map([](const Rows &) {});
  if (!done && sqlite3_get_autocommit(sqlite_.get()) == 0) (void)query("ROLLBACK", {});
  return done;
}

tl::expected<DatabasePtr, DatabaseError> open_file(const std::string &file) {
  sqlite3 *raw = nullptr;
  // Its own mutex is enough for one connection: see mutex_.
  const int result =
      sqlite3_open_v2(file.c_str(), &raw, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, nullptr);
  SqlitePtr sqlite(raw);
  if (result != SQLITE_OK) return tl::unexpected(error_of(file, result, sqlite3_errstr(result)));
  auto database = std::make_unique<SqliteDatabase>(file, std::move(sqlite));
  if (auto prepared = database->prepare(); !prepared) {
    return tl::unexpected(std::move(prepared.error()));
  }
  return database;
}

}  // namespace

tl::expected<DatabasePtr, DatabaseError> open_sqlite(const std::string &file) {
  // SQLite would make it by the umask; its -wal and -shm have the mode of the database. Closed
  // again before SQLite has it open: closing any descriptor of a file drops all locks that this
  // process has on it (fcntl(2)), and another process would then take the database for unused and
  // remove its log.
  const bool made = static_cast<bool>(policy::UniqueFd(
      ::open(file.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600)));
  if (!made && errno != EEXIST) {
    return tl::unexpected(DatabaseError{
        DatabaseError::Kind::unavailable,
        fmt::format("the database {} cannot be made: {}", file, strerrordesc_np(errno))});
  }
  return open_file(file);
}

}  // namespace inlay::identity::ca
