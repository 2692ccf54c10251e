// A database of SQL: SQLite in a file, or PostgreSQL. Statements are written once for both: $1, $2
// and so on are parameters, RETURNING and ON CONFLICT are there, types are BIGINT, TEXT and BYTEA.
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <variant>
#include <vector>

namespace inlay::identity::ca {

// Bytes, where a std::string is text in UTF-8.
struct Blob {
  std::string bytes;
  bool operator==(const Blob &) const = default;
};
using Cell = std::variant<std::monostate, std::int64_t, std::string, Blob>;  // monostate: NULL

class Row {
 public:
  explicit Row(std::vector<Cell> cells) : cells_(std::move(cells)) {}
  // What is not of the kind, NULL among it, reads as 0 or "".
  std::int64_t number(std::size_t column) const;
  std::string text(std::size_t column) const;
  std::string bytes(std::size_t column) const;
  bool null(std::size_t column) const;

 private:
  std::vector<Cell> cells_;
};
using Rows = std::vector<Row>;

struct DatabaseError {
  enum class Kind : std::uint8_t {
    busy,         // others keep it locked: trying again helps
    unavailable,  // no connection, no space, no right to write: trying again may help
    constraint,   // a row that must not be there, or must
    corrupt,      // the file is damaged, or no database
    other,
  };
  Kind kind = Kind::other;
  std::string message;  // one line: which database, what is wrong, what to do; never a password
};

// A connection with a transaction open.
class Connection {
 public:
  virtual ~Connection() = default;
  virtual tl::expected<Rows, DatabaseError> query(std::string_view sql,
                                                  const std::vector<Cell> &parameters) = 0;
  tl::expected<Rows, DatabaseError> query(std::string_view sql) { return query(sql, {}); }
  // Waits until nobody else is between this and the end of his transaction.
  virtual tl::expected<void, DatabaseError> exclude_others() = 0;
};

// Any thread.
class Database {
 public:
  using Work = std::function<tl::expected<void, DatabaseError>(Connection &)>;

  virtual ~Database() = default;
  // All that `work` does, or nothing of it, when it or COMMIT fails. `work` may be run again when
  // another transaction was in its way or the connection was lost before COMMIT. What was changed
  // may have stayed when the connection was lost at COMMIT: the error is `unavailable` then.
  virtual tl::expected<void, DatabaseError> transaction(const Work &work) = 0;
  virtual std::string name() const = 0;  // for messages; without a password
};

using DatabasePtr = std::unique_ptr<Database>;

// `file`: absolute. Made with mode 0600 when it is not there; its folder must exist.
tl::expected<DatabasePtr, DatabaseError> open_sqlite(const std::string &file);

// `address`: a URL postgresql://… or libpq's key=value words. Connects at once, and anew when a
// connection was lost. At most `connections` at a time; more callers wait.
tl::expected<DatabasePtr, DatabaseError> open_postgres(const std::string &address,
                                                       std::size_t connections = 8);

}  // namespace inlay::identity::ca
