//! Sums and maxima of rows, each shared by some units of a cube.

use cubecl::client::Client;
use cubecl::ir::features::Plane;
use cubecl::prelude::*;

/// How the units of a cube share rows. Kernels are compiled for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Rows {
    /// Units that share a row, a power of two.
    pub lanes: usize,
    pub per_cube: usize,
    /// Whether the units of a row are a plane, which adds up without shared memory.
    pub planes: bool,
}

/// Units of a cube with several rows.
const UNITS: usize = 128;
/// Below every score, and finite, because some shader languages lack infinity.
pub(crate) const LOWEST: f32 = -3.0e38;

/// Most units of a row.
const MOST_LANES: usize = 256;

impl Rows {
    /// Shares each row, read in `loads` vector loads, among units.
    pub(crate) fn new(client: &Client, loads: usize) -> Self {
        let hardware = &client.properties().hardware;
        let most = MOST_LANES.min(hardware.max_units_per_cube as usize);
        let lanes = loads.min(most).next_power_of_two();
        // Units are in one plane for certain only where all planes are of one size.
        let equal = hardware.plane_size_min == hardware.plane_size_max;
        let planes = equal && client.features().plane.contains(Plane::Ops) && lanes == hardware.plane_size_max as usize;
        Self { lanes, per_cube: (UNITS / lanes).max(1), planes }
    }

    /// Shares each row, read in `loads` vector loads, among one plane, or 32 units: for rows that are read once, all at
    /// the same time.
    pub(crate) fn of_planes(client: &Client, loads: usize) -> Self {
        let plane = client.properties().hardware.plane_size_max as usize;
        let lanes = if plane.is_power_of_two() && (8..=64).contains(&plane) { plane } else { 32 };
        Self::new(client, loads.min(lanes))
    }

    pub(crate) fn cube_dim(&self) -> CubeDim {
        CubeDim::new_2d(self.lanes as u32, self.per_cube as u32)
    }

    /// Number of units of a cube.
    pub(crate) fn units(&self) -> usize {
        self.lanes * self.per_cube
    }

    /// Halvings until one value per row is left.
    pub(crate) fn halvings(&self) -> usize {
        self.lanes.ilog2() as usize
    }
}

/// The row of this unit. In the last cube it may lie past the last row.
#[cube]
pub(crate) fn row_of_unit(#[comptime] rows: Rows) -> usize {
    CUBE_POS * rows.per_cube + UNIT_POS_Y as usize
}

/// Adds up one value per unit of a row; every unit of the cube must come here, and all get the sum.
#[cube]
pub(crate) fn sum_of_row(value: f32, shared: &mut Shared<[f32]>, #[comptime] rows: Rows) -> f32 {
    sum_of_lanes(value, UNIT_POS_X as usize, shared, rows)
}

/// [`sum_of_row`] of units that share rows one run of `rows.lanes` units after another, whatever the shape of their cube.
#[cube]
pub(crate) fn sum_of_lanes(value: f32, lane: usize, shared: &mut Shared<[f32]>, #[comptime] rows: Rows) -> f32 {
    if comptime!(rows.planes) {
        plane_sum(value)
    } else {
        let unit = UNIT_POS as usize;
        shared[unit] = value;
        sync_cube();
        #[unroll]
        for halving in 0..comptime!(rows.halvings()) {
            let distance = comptime!(rows.lanes >> (halving + 1));
            if lane < distance {
                shared[unit] += shared[unit + distance];
            }
            sync_cube();
        }
        let sum = shared[unit - lane];
        sync_cube();
        sum
    }
}

/// Finds the greatest of one value per unit of a row, as [`sum_of_row`] adds them up.
#[cube]
pub(crate) fn max_of_row(value: f32, shared: &mut Shared<[f32]>, #[comptime] rows: Rows) -> f32 {
    if comptime!(rows.planes) {
        plane_max(value)
    } else {
        let unit = UNIT_POS as usize;
        shared[unit] = value;
        sync_cube();
        #[unroll]
        for halving in 0..comptime!(rows.halvings()) {
            let distance = comptime!(rows.lanes >> (halving + 1));
            if (UNIT_POS_X as usize) < distance {
                shared[unit] = max(shared[unit], shared[unit + distance]);
            }
            sync_cube();
        }
        let greatest = shared[UNIT_POS_Y as usize * rows.lanes];
        sync_cube();
        greatest
    }
}
