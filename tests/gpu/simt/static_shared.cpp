// `__shared__` variables are thread-local ones of this library: its own symbols tell where they lie.
#include "static_shared.hpp"

#include <cstring>
#include <cxxabi.h>
#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <vector>

extern "C" {
// Where a thread's copy of the library's thread-local variables is, told by one of them.
__attribute__((visibility("hidden"))) thread_local char simt_static_shared_mark;
}

namespace simt {

namespace {

constexpr int FILL = 0xff;  // NaN in every floating-point format

// A thread-local variable of the library.
struct Variable {
    std::string name;  // with its function's, and the spaces that is in
    size_t offset, bytes;
};

std::string plain(const char* mangled) {
    int status;
    std::unique_ptr<char, void (*)(void*)> name(abi::__cxa_demangle(mangled, nullptr, nullptr, &status), free);
    return name ? name.get() : mangled;
}

struct File {
    const char* bytes = nullptr;
    size_t size = 0;

    explicit File(const char* path) {
        int file = open(path, O_RDONLY | O_CLOEXEC);
        struct stat facts{};
        if (file < 0 || fstat(file, &facts)) return;
        size = size_t(facts.st_size);
        void* mapped = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file, 0);
        close(file);
        if (mapped != MAP_FAILED) bytes = static_cast<const char*>(mapped);
    }
    ~File() {
        if (bytes) munmap(const_cast<char*>(bytes), size);
    }
};

std::vector<Variable> read_variables() {
    std::vector<Variable> variables;
    Dl_info library;
    if (!dladdr(reinterpret_cast<void*>(&read_variables), &library)) return variables;
    File file(library.dli_fname);
    if (!file.bytes) return variables;
    auto* header = reinterpret_cast<const Elf64_Ehdr*>(file.bytes);
    auto* sections = reinterpret_cast<const Elf64_Shdr*>(file.bytes + header->e_shoff);
    for (int at = 0; at < header->e_shnum; at++) {
        if (sections[at].sh_type != SHT_SYMTAB) continue;
        const char* names = file.bytes + sections[sections[at].sh_link].sh_offset;
        auto* symbols = reinterpret_cast<const Elf64_Sym*>(file.bytes + sections[at].sh_offset);
        for (size_t symbol = 0; symbol < sections[at].sh_size / sizeof(Elf64_Sym); symbol++) {
            const Elf64_Sym& of = symbols[symbol];
            if (ELF64_ST_TYPE(of.st_info) != STT_TLS || of.st_shndx == SHN_UNDEF) continue;
            variables.push_back({plain(names + of.st_name), of.st_value, of.st_size});
        }
    }
    return variables;
}

bool starts_with(const char* text, const std::string& start) { return strncmp(text, start.c_str(), start.size()) == 0; }

// Whether a variable of `kernel`'s space belongs to another entry.
bool is_of_other_entry(const Kernel& kernel, const std::string& function) {
    for (const Kernel* other = first_kernel(); other; other = other->next) {
        bool same_space = !strcmp(other->space, kernel.space);
        if (same_space && strcmp(other->name, kernel.name) &&
            starts_with(function.c_str(), std::string(other->name) + "("))
            return true;
    }
    return false;
}

struct Piece {
    size_t offset, bytes;
};

size_t mark_offset(const std::vector<Variable>& variables) {
    for (const Variable& variable : variables) {
        if (variable.name == "simt_static_shared_mark") return variable.offset;
    }
    return 0;
}

struct Table {
    std::mutex lock;
    std::vector<Variable> variables = read_variables();
    size_t mark = mark_offset(variables);
    std::map<const Kernel*, std::vector<Piece>> pieces;
};

// What is behind the last `space` in a variable's name: its function, and so on.
const std::vector<Piece>& pieces_of(Table& table, const Kernel& kernel) {
    std::lock_guard lock(table.lock);
    auto known = table.pieces.find(&kernel);
    if (known != table.pieces.end()) return known->second;
    std::vector<Piece>& pieces = table.pieces[&kernel];
    for (const Variable& variable : table.variables) {
        // `void space::function<…>(…)::name` of a template, `space::function(…)::name` otherwise.
        size_t at = variable.name.find(kernel.space);
        if (at == std::string::npos || variable.name.find('(') < at) continue;
        std::string function = variable.name.substr(at + strlen(kernel.space));
        if (!is_of_other_entry(kernel, function)) pieces.push_back({variable.offset, variable.bytes});
    }
    return pieces;
}

// Calls `visit` with each piece of what `kernel` has, on this thread.
template <class F>
void visit_pieces(const Kernel& kernel, F visit) {
    static Table& table = *new Table;
    static thread_local const Kernel* last = nullptr;
    static thread_local const std::vector<Piece>* pieces = nullptr;
    if (last != &kernel) {
        pieces = &pieces_of(table, kernel);
        last = &kernel;
    }
    char* base = &simt_static_shared_mark - table.mark;
    for (const Piece& piece : *pieces) visit(base + piece.offset, piece.bytes);
}

}  // namespace

void fill_static_shared(const Kernel& kernel) {
    visit_pieces(kernel, [](char* at, size_t bytes) { memset(at, FILL, bytes); });
}

void keep_static_shared(const Kernel& kernel, std::vector<char>& kept) {
    kept.clear();
    visit_pieces(kernel, [&](const char* at, size_t bytes) { kept.insert(kept.end(), at, at + bytes); });
}

void restore_static_shared(const Kernel& kernel, const std::vector<char>& kept) {
    const char* from = kept.data();
    visit_pieces(kernel, [&](char* at, size_t bytes) {
        memcpy(at, from, bytes);
        from += bytes;
    });
}

}  // namespace simt
