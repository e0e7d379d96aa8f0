//! Templates: an image with the smallest sizes that make sense for it.

/// What a workspace is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Template {
    /// Its name in requests.
    pub id: &'static str,
    /// Its name for people.
    pub name: &'static str,
    /// What it is for.
    pub description: &'static str,
    /// A word that a page may show a picture for.
    pub icon: &'static str,
    /// Where a list files it.
    pub category: &'static str,
    /// Name of the image.
    pub image: &'static str,
    /// Floor of memory, MiB.
    pub ram_mb: u32,
    /// Floor of processors.
    pub vcpu_count: u32,
    /// Floor of the disk, MiB.
    pub disk_size_mb: u32,
    /// Apps that a workspace made of it has from the start.
    pub expected_apps: &'static [ExpectedApp],
}

/// An app that a template brings along: a name for what its user is expected to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpectedApp {
    /// What the template calls it.
    pub name: &'static str,
    /// Where it listens.
    pub port: u16,
}

/// The template of a request that names none.
pub const DEFAULT: &str = "base";

/// All templates.
pub const ALL: [Template; 2] = [
    Template {
        id: "base",
        name: "Base",
        description: "Debian 12 with Python, Node.js, git and build tools",
        icon: "terminal",
        category: "general",
        image: "base",
        ram_mb: 512,
        vcpu_count: 1,
        disk_size_mb: 4_096,
        expected_apps: &[],
    },
    Template {
        id: "dev",
        name: "Development",
        description: "The base image with room to build software in",
        icon: "code",
        category: "general",
        image: "base",
        ram_mb: 1_024,
        vcpu_count: 2,
        disk_size_mb: 10_240,
        expected_apps: &[ExpectedApp { name: "preview", port: 3000 }],
    },
];

/// The template of this name.
pub fn find(id: &str) -> Option<&'static Template> {
    ALL.iter().find(|template| template.id == id)
}
