#include "shim/boot/environment.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "shim/arena/inheritance.h"
#include "shim/boot/level.h"

namespace inlay::shim::boot {
namespace {

constexpr const char kPreload[] = "LD_PRELOAD=";
constexpr std::size_t kPreloadLength = sizeof kPreload - 1;

// Variables a child gets back when it lacks them: whole "NAME=value" strings, own copies.
struct Kept {
  const char *text;
  std::size_t name_length;  // with '='
};
constexpr const char *kNames[] = {
    "LD_PRELOAD=", "INLAY_CONFIG=", "INLAY_STRICT=", "INLAY_CONFIG_OWNER="};
constexpr std::size_t kKept = sizeof kNames / sizeof kNames[0];
constinit Kept g_kept[kKept] = {};
// What is never passed on: written by whoever executes an image, for that image.
constexpr const char *kMessages[] = {kArenaVariable, "INLAY_SNAPSHOT="};

const char *g_library = nullptr;  // this library's path, as the loader knows it

const char *find(char *const environment[], const char *name, std::size_t length) noexcept {
  if (environment == nullptr) return nullptr;
  for (; *environment != nullptr; ++environment) {
    if (std::strncmp(*environment, name, length) == 0) return *environment;
  }
  return nullptr;
}

const char *copy(const char *text) noexcept {
  std::size_t size = std::strlen(text) + 1;
  auto *room = static_cast<char *>(allocate(size));
  if (room != nullptr) std::memcpy(room, text, size);
  return room;
}

const char *base_name(const char *path, std::size_t length) noexcept {
  while (length > 0 && path[length - 1] != '/') --length;
  return path + length;
}

// True when an entry of the preload list is this library, by path or by name. ld.so(8): colons and
// spaces separate.
bool preloads_inlay(const char *list) noexcept {
  const char *own = base_name(g_library, std::strlen(g_library));
  std::size_t own_length = std::strlen(own);
  while (*list != '\0') {
    std::size_t length = std::strcspn(list, ": ");
    const char *name = base_name(list, length);
    if (static_cast<std::size_t>(list + length - name) == own_length &&
        std::memcmp(name, own, own_length) == 0) {
      return true;
    }
    list += length + (list[length] != '\0');
  }
  return false;
}

// What becomes of the environment's LD_PRELOAD.
enum class PreloadRepair { none, add, append };
PreloadRepair preload_repair(const char *present) noexcept {
  if (g_kept[0].text == nullptr) return PreloadRepair::none;
  if (present == nullptr || present[kPreloadLength] == '\0') return PreloadRepair::add;
  return preloads_inlay(present + kPreloadLength) ? PreloadRepair::none : PreloadRepair::append;
}

bool is_message(const char *entry) noexcept {
  for (const char *name : kMessages) {
    if (std::strncmp(entry, name, std::strlen(name)) == 0) return true;
  }
  return false;
}

bool lacks(const char *present, const Kept &kept) noexcept {
  return kept.text != nullptr && (present == nullptr || present[kept.name_length] == '\0');
}

}  // namespace

void remember_environment(char *const environment[]) noexcept {
  Dl_info own{};
  if (dladdr(reinterpret_cast<void *>(&remember_environment), &own) == 0 ||
      own.dli_fname == nullptr) {
    return;
  }
  char absolute[4096];
  bool relative = own.dli_fname[0] != '/' && ::realpath(own.dli_fname, absolute) != nullptr;
  g_library = copy(relative ? absolute : own.dli_fname);
  if (g_library == nullptr) return;
  for (std::size_t i = 0; i < kKept; ++i) {
    std::size_t length = std::strlen(kNames[i]);
    const char *text = find(environment, kNames[i], length);
    if (text == nullptr || text[length] == '\0') continue;
    // Loaded by other means (/etc/ld.so.preload, as a dependency): those reach children by
    // themselves.
    if (i == 0 && !preloads_inlay(text + length)) continue;
    g_kept[i] = {copy(text), length};
  }
}

const char *library_path() noexcept { return g_library; }

void hide_messages(char **environment) noexcept {
  if (environment == nullptr) return;
  char **kept = environment;
  for (; *environment != nullptr; ++environment) {
    if (!is_message(*environment)) *kept++ = *environment;
  }
  *kept = nullptr;
}

Repair plan_repair(char *const environment[], const char *message) noexcept {
  if (!active()) return {};
  Repair plan;
  std::size_t added = message != nullptr ? 1 : 0;
  bool needed = message != nullptr;
  for (std::size_t i = 0; i < kKept; ++i) {
    const char *present = find(environment, kNames[i], std::strlen(kNames[i]));
    if (i == 0 && preload_repair(present) == PreloadRepair::append) {
      plan.text = std::strlen(present) + 1 + std::strlen(g_library) + 1;
      needed = true;
    } else if (lacks(present, g_kept[i])) {
      needed = true;
      ++added;
    }
  }
  std::size_t count = 0;
  for (; environment != nullptr && environment[count] != nullptr; ++count) {
    needed = needed || is_message(environment[count]);
  }
  if (!needed) return {};
  plan.entries = count + added + 1;
  return plan;
}

void repair(char *const environment[], const char *message, char **entries, char *text) noexcept {
  const char *present[kKept];
  for (std::size_t i = 0; i < kKept; ++i) {
    present[i] = find(environment, kNames[i], std::strlen(kNames[i]));
  }
  bool append = preload_repair(present[0]) == PreloadRepair::append;
  for (; environment != nullptr && *environment != nullptr; ++environment) {
    char *entry = *environment;
    if (entry == present[0] && append) {
      // Behind what the program put there: a sanitizer's runtime must come first.
      std::size_t length = std::strlen(entry);
      std::memcpy(text, entry, length);
      text[length] = ':';
      std::strcpy(text + length + 1, g_library);
      entry = text;
    }
    // An empty one is replaced by the one added below.
    bool replaced = is_message(entry);
    for (std::size_t i = 0; i < kKept; ++i) {
      replaced = replaced || (entry == present[i] && lacks(present[i], g_kept[i]));
    }
    if (!replaced) *entries++ = entry;
  }
  for (std::size_t i = 0; i < kKept; ++i) {
    if (lacks(present[i], g_kept[i])) *entries++ = const_cast<char *>(g_kept[i].text);
  }
  if (message != nullptr) *entries++ = const_cast<char *>(message);
  *entries = nullptr;
}

}  // namespace inlay::shim::boot
