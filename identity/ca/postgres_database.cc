// PostgreSQL by libpq. Each transaction has a connection of its own, at READ COMMITTED; rows that
// must not change under it are locked by changing them.
#include <fmt/format.h>
#include <libpq-fe.h>

#include <array>
#include <bit>
#include <condition_variable>
#include <cstring>
#include <mutex>

#include "identity/ca/database.h"

namespace inlay::identity::ca {
namespace {

using Kind = DatabaseError::Kind;

// Of pg_type.h, which libpq does not install.
constexpr Oid kBool = 16, kBytea = 17, kInt8 = 20, kInt2 = 21, kInt4 = 23, kText = 25;
constexpr int kAttempts = 6;
// Any number will do that no other program uses for pg_advisory_lock: "inlay-ca".
constexpr const char *kExclude = "SELECT pg_advisory_xact_lock(7596836216757575521)";
// A server that hangs must not hang whoever asks us.
constexpr const char *kOptions =
    "-c statement_timeout=10s -c idle_in_transaction_session_timeout=30s "
    "-c default_transaction_isolation=read\\ committed -c client_min_messages=warning";

struct FinishConnection {
  void operator()(PGconn *connection) const noexcept { PQfinish(connection); }
};
struct ClearResult {
  void operator()(PGresult *result) const noexcept { PQclear(result); }
};
using PgConnectionPtr = std::unique_ptr<PGconn, FinishConnection>;
using ResultPtr = std::unique_ptr<PGresult, ClearResult>;

std::string first_line(std::string_view text) {
  return std::string(text.substr(0, text.find('\n')));
}

std::uint64_t big_endian(std::uint64_t value) { return __builtin_bswap64(value); }
static_assert(std::endian::native == std::endian::little);

DatabaseError error_of(const std::string &name, PGconn *connection, const PGresult *result) {
  const char *const state = PQresultErrorField(result, PG_DIAG_SQLSTATE);
  const char *const primary = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
  const std::string message =
      primary != nullptr ? first_line(primary) : first_line(PQerrorMessage(connection));
  const std::string_view code = state != nullptr ? state : "";
  Kind kind = Kind::other;
  if (code.empty() || PQstatus(connection) != CONNECTION_OK || code.starts_with("08") ||
      code.starts_with("53") || code.starts_with("57P") || code == "57014" || code == "25006") {
    kind = Kind::unavailable;  // connection, resources, shutdown, timeout, read-only standby
  } else if (code.starts_with("40") || code == "55P03") {
    kind = Kind::busy;  // serialization, deadlock, lock not available
  } else if (code.starts_with("23")) {
    kind = Kind::constraint;
  } else if (code.starts_with("XX")) {
    kind = Kind::corrupt;
  }
  return {kind, fmt::format("the database {}: {}", name, message)};
}

Cell cell_of(const PGresult *result, int row, int column) {
  if (PQgetisnull(result, row, column) == 1) return std::monostate();
  const std::string bytes(PQgetvalue(result, row, column),
                          static_cast<std::size_t>(PQgetlength(result, row, column)));
  switch (PQftype(result, column)) {
    case kBool:
    case kInt2:
    case kInt4:
    case kInt8: {
      // Big-endian, of 1 to 8 bytes.
      std::int64_t number = !bytes.empty() && (bytes[0] & 0x80) != 0 ? -1 : 0;
      for (const char byte : bytes) {
        number = static_cast<std::int64_t>(static_cast<std::uint64_t>(number) << 8 |
                                           static_cast<unsigned char>(byte));
      }
      return number;
    }
    case kBytea:
      return Blob{bytes};
    default:
      return bytes;
  }
}

class PgConnection : public Connection {
 public:
  PgConnection(const std::string &name, PgConnectionPtr connection)
      : name_(name), connection_(std::move(connection)) {}

  tl::expected<Rows, DatabaseError> query(std::string_view sql,
                                          const std::vector<Cell> &parameters) override;
  tl::expected<void, DatabaseError> exclude_others() override {
    return query(kExclude, {}).map([](const Rows &) {});
  }
  bool good() const { return !ended_ && PQstatus(connection_.get()) == CONNECTION_OK; }

 private:
  const std::string &name_;  // of the database, which outlives it
  PgConnectionPtr connection_;
  bool ended_ = false;  // libpq itself may take it for good for a while
};

tl::expected<Rows, DatabaseError> PgConnection::query(std::string_view sql,
                                                      const std::vector<Cell> &parameters) {
  std::vector<Oid> types;
  std::vector<const char *> values;
  std::vector<int> lengths, formats;
  std::vector<std::uint64_t> numbers(parameters.size());
  for (std::size_t at = 0; at < parameters.size(); ++at) {
    const auto add = [&](Oid type, const char *value, std::size_t length) {
      types.push_back(type);
      values.push_back(value);
      lengths.push_back(static_cast<int>(length));
      formats.push_back(1);
    };
    if (const auto *number = std::get_if<std::int64_t>(&parameters[at])) {
      numbers[at] = big_endian(static_cast<std::uint64_t>(*number));
      add(kInt8, reinterpret_cast<const char *>(&numbers[at]), sizeof numbers[at]);
    } else if (const auto *text = std::get_if<std::string>(&parameters[at])) {
      add(kText, text->c_str(), text->size());
    } else if (const auto *blob = std::get_if<Blob>(&parameters[at])) {
      add(kBytea, blob->bytes.c_str(), blob->bytes.size());
    } else {
      add(0, nullptr, 0);
    }
  }
  const ResultPtr result(PQexecParams(connection_.get(), std::string(sql).c_str(),
                                      static_cast<int>(parameters.size()), types.data(),
                                      values.data(), lengths.data(), formats.data(), 1));
  const ExecStatusType status = PQresultStatus(result.get());
  if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK) {
    // What the server says has a code; without one it is libpq that lost the server.
    const char *const code = PQresultErrorField(result.get(), PG_DIAG_SQLSTATE);
    ended_ = ended_ || code == nullptr || std::string_view(code).starts_with("57P");
    return tl::unexpected(error_of(name_, connection_.get(), result.get()));
  }
  Rows rows;
  for (int row = 0; row < PQntuples(result.get()); ++row) {
    std::vector<Cell> cells;
    for (int column = 0; column < PQnfields(result.get()); ++column) {
      cells.push_back(cell_of(result.get(), row, column));
    }
    rows.emplace_back(std::move(cells));
  }
  return rows;
}

class PostgresDatabase : public Database {
 public:
  PostgresDatabase(std::string address, std::string name, std::size_t connections)
      : address_(std::move(address)), name_(std::move(name)), free_(connections) {}

  tl::expected<void, DatabaseError> transaction(const Work &work) override;
  std::string name() const override { return name_; }

 private:
  using ConnectionPtr = std::unique_ptr<PgConnection>;
  tl::expected<ConnectionPtr, DatabaseError> connect() const;
  tl::expected<ConnectionPtr, DatabaseError> take();
  void give_back(ConnectionPtr connection);
  // False: not to be tried again.
  static bool once(PgConnection &connection, const Work &work,
                   tl::expected<void, DatabaseError> &done);

  const std::string address_, name_;
  std::mutex mutex_;
  std::condition_variable freed_;
  std::size_t free_;                 // how many more may be open
  std::vector<ConnectionPtr> idle_;  // of those that are
};

tl::expected<PostgresDatabase::ConnectionPtr, DatabaseError> PostgresDatabase::connect() const {
  // What the address says comes later, and counts.
  const std::array keywords{"connect_timeout", "application_name",
                            "options",         "client_encoding",
                            "dbname",          static_cast<const char *>(nullptr)};
  const std::array values{"5",    "inlay-ca",       kOptions,
                          "UTF8", address_.c_str(), static_cast<const char *>(nullptr)};
  PgConnectionPtr connection(PQconnectdbParams(keywords.data(), values.data(), 1));
  if (!connection || PQstatus(connection.get()) != CONNECTION_OK) {
    return tl::unexpected(DatabaseError{
        Kind::unavailable,
        fmt::format("the database {} cannot be reached: {}", name_,
                    connection ? first_line(PQerrorMessage(connection.get())) : "out of memory")});
  }
  // Else libpq writes what the server has to say to standard error.
  PQsetNoticeProcessor(
      connection.get(), [](void *, const char *) {}, nullptr);
  return std::make_unique<PgConnection>(name_, std::move(connection));
}

tl::expected<PostgresDatabase::ConnectionPtr, DatabaseError> PostgresDatabase::take() {
  {
    std::unique_lock lock(mutex_);
    freed_.wait(lock, [&] { return free_ > 0; });
    --free_;
    if (!idle_.empty()) {
      ConnectionPtr connection = std::move(idle_.back());
      idle_.pop_back();
      return connection;
    }
  }
  auto connection = connect();
  if (!connection) give_back(nullptr);
  return connection;
}

void PostgresDatabase::give_back(ConnectionPtr connection) {
  std::lock_guard lock(mutex_);
  ++free_;
  if (connection && connection->good()) {
    idle_.push_back(std::move(connection));
  } else {
    idle_.clear();  // what cut one off, the server's end perhaps, cut the others off too
  }
  freed_.notify_one();
}

bool PostgresDatabase::once(PgConnection &connection, const Work &work,
                            tl::expected<void, DatabaseError> &done) {
  done = connection.query("BEGIN", {}).map([](const Rows &) {});
  if (done) done = work(connection);
  if (done) {
    done = connection.query("COMMIT", {}).map([](const Rows &) {});
    // With the connection gone nobody knows whether it was done.
    return !done && done.error().kind == Kind::busy;
  }
  if (!connection.good()) return true;
  (void)connection.query("ROLLBACK", {});
  return done.error().kind == Kind::busy;
}

tl::expected<void, DatabaseError> PostgresDatabase::transaction(const Work &work) {
  tl::expected<void, DatabaseError> done;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    auto connection = take();
    if (!connection) return tl::unexpected(std::move(connection.error()));
    const bool again = once(**connection, work, done);
    give_back(std::move(*connection));
    if (!again) break;
  }
  return done;
}

// "postgresql host:port/name" out of the address, for messages.
tl::expected<std::string, DatabaseError> name_of(const std::string &address) {
  char *complaint = nullptr;
  const std::unique_ptr<PQconninfoOption, void (*)(PQconninfoOption *)> options(
      PQconninfoParse(address.c_str(), &complaint), PQconninfoFree);
  const std::unique_ptr<char, void (*)(void *)> freed(complaint, PQfreemem);
  if (!options) {
    // libpq's complaint would quote the address, with its password.
    return tl::unexpected(DatabaseError{
        Kind::other, "the address of the database is none: write postgresql://USER@HOST/NAME"});
  }
  std::string host = "localhost", port, name;
  for (const PQconninfoOption *option = options.get(); option->keyword != nullptr; ++option) {
    if (option->val == nullptr) continue;
    if (std::strcmp(option->keyword, "host") == 0) host = option->val;
    if (std::strcmp(option->keyword, "port") == 0) port = std::string(":") + option->val;
    if (std::strcmp(option->keyword, "dbname") == 0) name = option->val;
  }
  return fmt::format("postgresql {}{}/{}", host, port, name);
}

}  // namespace

tl::expected<DatabasePtr, DatabaseError> open_postgres(const std::string &address,
                                                       std::size_t connections) {
  auto name = name_of(address);
  if (!name) return tl::unexpected(std::move(name.error()));
  auto database = std::make_unique<PostgresDatabase>(address, std::move(*name), connections);
  auto reached =
      database->transaction([](Connection &) { return tl::expected<void, DatabaseError>(); });
  if (!reached) return tl::unexpected(std::move(reached.error()));
  return database;
}

}  // namespace inlay::identity::ca
