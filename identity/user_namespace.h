// Whose number a user's number is. Where this process's user namespace does not map a user, the
// kernel shows one and the same number for him and for everybody else like him (the overflow uid,
// user_namespaces(7)): that number proves nothing about anybody. It is "nobody"'s, too, so that
// only the namespace tells which of the two it is.
#pragma once

#include <sys/types.h>

#include <string_view>

namespace inlay::identity {

// By the text of /proc/PID/uid_map or gid_map: every number stands for one user or group. So it is
// in the initial user namespace.
bool maps_everybody(std::string_view map) noexcept;

// Both of this process's own maps do: nobody's number need be asked about.
bool everybody_is_mapped() noexcept;

// True when the number may be that of many. Any thread; reads /proc, and without that believes
// 65534 to be such a number.
bool may_be_anybody(uid_t user) noexcept;
bool may_be_any_group(gid_t group) noexcept;

}  // namespace inlay::identity
